"""XMP packets changed as text, so that all else in them keeps its bytes."""

import re
from xml.sax.saxutils import escape, quoteattr

from cir_data.images.iptc import Iptc

_ORIENTATION = re.compile(rb"(tiff:Orientation(?:\s*=\s*[\"']|>)\s*)[1-8]", re.IGNORECASE)
_END = re.compile(rb"</rdf:RDF\s*>")
_ABOUT = re.compile(rb"rdf:about\s*=\s*(\"[^\"]*\"|'[^']*')")

_PACKET = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"></rdf:RDF>'
    b'</x:xmpmeta>\n<?xpacket end="w"?>'
)

_NAMESPACES = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
}

_LANGUAGES, _ORDERED, _UNORDERED, _PLAIN = "Alt", "Seq", "Bag", ""

_OF_IPTC: dict[int, tuple[str, str]] = {
    5: ("dc:title", _LANGUAGES),
    25: ("dc:subject", _UNORDERED),
    40: ("photoshop:Instructions", _PLAIN),
    80: ("dc:creator", _ORDERED),
    85: ("photoshop:AuthorsPosition", _PLAIN),
    90: ("photoshop:City", _PLAIN),
    95: ("photoshop:State", _PLAIN),
    101: ("photoshop:Country", _PLAIN),
    103: ("photoshop:TransmissionReference", _PLAIN),
    105: ("photoshop:Headline", _PLAIN),
    110: ("photoshop:Credit", _PLAIN),
    115: ("photoshop:Source", _PLAIN),
    116: ("dc:rights", _LANGUAGES),
    120: ("dc:description", _LANGUAGES),
    122: ("photoshop:CaptionWriter", _PLAIN),
}
"""XMP properties, with their kinds, of IPTC's data sets (IPTC Photo Metadata Standard)."""

_SOURCE = re.compile(
    rb'<rdf:Description rdf:about=(?:"[^"]*"|\'[^\']*\') xmlns:cir="urn:basicsr-cir:restored#"'
    rb' cir:source="([0-9a-f]*)"/>'
)


def upright(xmp: bytes) -> bytes:
    """Set the orientation to 1, as fits pixels that were turned."""
    return _ORIENTATION.sub(rb"\g<1>1", xmp)


def source_of(xmp: bytes | None) -> str | None:
    """Return what :func:`with_source` wrote, None where it did not."""
    found = _SOURCE.search(xmp or b"")
    return None if found is None else found[1].decode()


def with_source(xmp: bytes | None, digest: str) -> bytes | None:
    """Say in a packet which file the picture was restored from.

    Args:
        xmp: The packet; None begins one.
        digest: Hexadecimal digest of the source file.

    Returns:
        The packet; unchanged where it is not laid out as XMP.
    """
    bare = None if xmp is None else _SOURCE.sub(b"", xmp)
    attributes = f'xmlns:cir="urn:basicsr-cir:restored#" cir:source="{digest}"'
    return _with_description(bare, f"<rdf:Description rdf:about=ABOUT {attributes}/>")


def with_iptc(xmp: bytes | None, iptc: Iptc) -> tuple[bytes | None, list[str]]:
    """Add IPTC's texts to a packet as properties, where the packet lacks them.

    Returns:
        The packet, and the names of the fields that have no place in it.
    """
    known = [number for number in iptc.texts if number in _OF_IPTC]
    lost = [iptc.name(number) for number in iptc.texts if number not in _OF_IPTC]
    elements = []
    for number in known:
        name, kind = _OF_IPTC[number]
        if name.encode() not in (xmp or b""):
            elements.append(_element(name, kind, iptc.texts[number]))
    if not elements:
        return xmp, lost
    namespaces = " ".join(f"xmlns:{k}={quoteattr(v)}" for k, v in _NAMESPACES.items())
    text = f"<rdf:Description rdf:about=ABOUT {namespaces}>{''.join(elements)}</rdf:Description>"
    packet = _with_description(xmp, text)
    if packet == xmp:
        lost += [_OF_IPTC[number][0] for number in known]
    return packet, lost


def _element(name: str, kind: str, texts: list[str]) -> str:
    if kind == _PLAIN:
        return f"<{name}>{escape(', '.join(texts))}</{name}>"
    language = ' xml:lang="x-default"' if kind == _LANGUAGES else ""
    values = [", ".join(texts)] if kind == _LANGUAGES else texts
    items = "".join(f"<rdf:li{language}>{escape(value)}</rdf:li>" for value in values)
    return f"<{name}><rdf:{kind}>{items}</rdf:{kind}></{name}>"


def _with_description(xmp: bytes | None, text: str) -> bytes | None:
    """Put a description last, about what the packet's own descriptions are about."""
    packet = _PACKET if xmp is None else xmp
    ends = list(_END.finditer(packet))
    if not ends:
        return xmp
    about = _ABOUT.search(packet)
    subject = b'""' if about is None else about[1]
    place = ends[-1].start()
    return packet[:place] + text.encode().replace(b"ABOUT", subject, 1) + packet[place:]
