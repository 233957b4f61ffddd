"""The application: HTTP surface, pipeline and wiring of the stages."""
