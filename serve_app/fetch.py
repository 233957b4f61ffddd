"""Fetching audio from a caller's URL without becoming the caller's way into the network.

The host is resolved here, every address has to be public, and the connection goes to the very address that was
checked; each redirect is checked anew. Size and time are bounded.
"""

import asyncio
import ipaddress
import socket
from urllib.parse import urljoin, urlsplit

import httpx

from deployments.errors import InvalidInputError

_REDIRECTS = 3


async def fetch(url: str, param: str, max_bytes: int, timeout_s: float) -> bytes:
    """The body behind an http(s) URL.

    Raises: InvalidInputError (naming ``param``) for another scheme, an address that is not public, too many
    redirects, another status than 200, or too much data or time.
    """
    try:
        async with asyncio.timeout(timeout_s), httpx.AsyncClient(trust_env=False, timeout=timeout_s) as client:
            for _ in range(_REDIRECTS + 1):
                answer = await _get(client, url, param, max_bytes)
                if isinstance(answer, bytes):
                    return answer
                url = urljoin(url, answer)
    except TimeoutError:
        raise _refused(param, f"no answer within {timeout_s:g} s") from None
    except httpx.HTTPError as error:
        raise _refused(param, f"the request failed ({type(error).__name__})") from None
    raise _refused(param, f"more than {_REDIRECTS} redirects")


async def _get(client: httpx.AsyncClient, url: str, param: str, max_bytes: int) -> bytes | str:
    """The body, or where a redirect points."""
    request = await _request(client, url, param)
    response = await client.send(request, stream=True)
    try:
        if response.is_redirect:
            return response.headers["location"]
        if response.status_code != 200:
            raise _refused(param, f"status {response.status_code}")
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > max_bytes:
                raise _refused(param, f"more than {max_bytes / 2**20:g} MiB")
        return bytes(body)
    finally:
        await response.aclose()


async def _request(client: httpx.AsyncClient, url: str, param: str) -> httpx.Request:
    """A request to a checked address of the URL's host, under the host's own name."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise _refused(param, "not a valid URL") from None
    if parts.scheme not in ("http", "https") or not host or parts.username:
        raise _refused(param, "only plain http and https URLs are fetched")
    address = await _public_address(host, port or (443 if parts.scheme == "https" else 80), param)
    pinned = httpx.URL(url).copy_with(host=address)
    headers = {"Host": parts.netloc, "User-Agent": "editx-serve"}
    return client.build_request("GET", pinned, headers=headers, extensions={"sni_hostname": host})


async def _public_address(host: str, port: int, param: str) -> str:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise _refused(param, "the host has no address") from None
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    if not addresses or not all(_is_public(address) for address in addresses):
        raise _refused(param, "the host is not a public address")
    return str(addresses[0])


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    mapped = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
    return address.is_global and not address.is_multicast and (mapped is None or _is_public(mapped))


def _refused(param: str, reason: str) -> InvalidInputError:
    return InvalidInputError(f"{param} could not be fetched: {reason}", param, "url_not_fetched")
