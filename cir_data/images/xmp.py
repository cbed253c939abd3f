"""XMP packets, edited as text so that all other bytes stay the same."""

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
"""XMP property and its kind for each IPTC data set (IPTC Photo Metadata Standard)."""

_SOURCE = re.compile(
    rb'<rdf:Description rdf:about=(?:"[^"]*"|\'[^\']*\') xmlns:cir="urn:basicsr-cir:restored#"'
    rb' cir:source="([0-9a-f]*)"/>'
)


_OF_OTHER_PARTS = {
    b"http://ns.adobe.com/hdr-gain-map/1.0/": rb"\w+",
    b"http://ns.google.com/photos/1.0/container/": b"Directory",
    b"http://ns.google.com/photos/1.0/camera/": rb"(?:MotionPhoto|MicroVideo)\w*",
    b"http://ns.adobe.com/xmp/note/": b"HasExtendedXMP",
}
"""Names of properties, by namespace, that describe other parts of the file than the picture."""


def without_other_parts(xmp: bytes) -> bytes:
    """Remove the properties by which a packet says that a gain map or a video follows the picture.

    These are dropped, and so is the extended part of the XMP.

    Example:
        >>> note = b'xmlns:xmpNote="http://ns.adobe.com/xmp/note/"'
        >>> without_other_parts(b"<d %s xmpNote:HasExtendedXMP='C0FFEE'/>" % note)
        b'<d xmlns:xmpNote="http://ns.adobe.com/xmp/note/"/>'
    """
    for namespace, names in _OF_OTHER_PARTS.items():
        bound = rb"xmlns:([\w.-]+)\s*=\s*[\"']" + re.escape(namespace) + rb"[\"']"
        if prefixes := {re.escape(prefix) for prefix in re.findall(bound, xmp)}:
            name = b"(?:%s):%s" % (b"|".join(sorted(prefixes)), names)
            xmp = re.sub(rb"\s%s\s*=\s*(?:\"[^\"<]*\"|'[^'<]*')" % name, b"", xmp)
            # of limited length, so that elements without an end take no time
            xmp = re.sub(rb"(?s)<(%s)(?=[\s/>])[^<>]*?(?:/>|>.{,4000}?</\1\s*>)" % name, b"", xmp)
    return xmp


def upright(xmp: bytes) -> bytes:
    """Set the orientation to 1, because the pixels were turned upright."""
    return _ORIENTATION.sub(rb"\g<1>1", xmp)


def source_of(xmp: bytes | None) -> str | None:
    """Return the digest that :func:`with_source` wrote, None if there is none."""
    found = _SOURCE.search(xmp or b"")
    return None if found is None else found[1].decode()


def with_source(xmp: bytes | None, digest: str) -> bytes | None:
    """Record in a packet which file the picture was restored from.

    Args:
        xmp: The packet; None creates one.
        digest: Hexadecimal digest of the source file.

    Returns:
        The packet; unchanged if it is not valid XMP.

    Example:
        >>> source_of(with_source(None, "0123abcd"))
        '0123abcd'
    """
    bare = None if xmp is None else _SOURCE.sub(b"", xmp)
    attributes = f'xmlns:cir="urn:basicsr-cir:restored#" cir:source="{digest}"'
    return _with_description(bare, f"<rdf:Description rdf:about=ABOUT {attributes}/>")


def with_iptc(xmp: bytes | None, iptc: Iptc) -> tuple[bytes | None, list[str]]:
    """Add IPTC texts to a packet as properties, unless it has them already.

    Returns:
        The packet, and the names of the fields that XMP cannot hold.
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
    """Append a description about the same subject as the packet's own descriptions."""
    packet = _PACKET if xmp is None else xmp
    ends = list(_END.finditer(packet))
    if not ends:
        return xmp
    about = _ABOUT.search(packet)
    subject = b'""' if about is None else about[1]
    place = ends[-1].start()
    return packet[:place] + text.encode().replace(b"ABOUT", subject, 1) + packet[place:]
