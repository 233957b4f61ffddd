from scripts.make_reference import PAGE, page


def test_the_reference_page_is_what_the_arguments_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page()


def test_every_field_of_every_stage_is_described() -> None:
    rows = [line for line in page().splitlines() if line.startswith("| `")]
    assert len(rows) > 30
    assert all(name in page() for name in ("max_ongoing_requests", "upscale_delay_s", "max_body_mb", "default_voice"))
