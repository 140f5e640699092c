"""What is changed in XMP, the description of a picture in XML: set upright, previews, the place and what the copy lacks
taken out, a line added to the history.

Names are compared by their namespaces, whatever prefixes the file gives them, and in any encoding that XML allows. XMP
that is not well-formed, has a document type (which may define entities) or is longer than `LONGEST` is not parsed.
"""

import re
from collections.abc import Callable
from xml.dom import minidom
from xml.parsers import expat

#: bytes; of more, the tree would take hundreds of megabytes
LONGEST = 1_000_000
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_XMP = "http://ns.adobe.com/xap/1.0/"
_XMP_MM = "http://ns.adobe.com/xap/1.0/mm/"
_TIFF = "http://ns.adobe.com/tiff/1.0/"
_GOOGLE = "http://ns.google.com/photos"
_DECLARATION = "http://www.w3.org/2000/xmlns/"
#: properties that hold an unprotected copy or a depth map of the picture, or speak of what lies elsewhere in the file
#: and is not kept: a second part of the XMP, a video or pictures behind the picture; by namespace
_LEFT_OUT = {
    _XMP: "Thumbnails",
    "http://ns.adobe.com/xap/1.0/g/img/": "image",
    "http://ns.adobe.com/xmp/note/": "HasExtendedXMP",
    f"{_GOOGLE}/1.0/image/": r"\w+",
    f"{_GOOGLE}/1.0/depthmap/": r"\w+",
    f"{_GOOGLE}/1.0/camera/": r"(MotionPhoto|MicroVideo)\w*",
    f"{_GOOGLE}/1.0/container/": "Directory",
    f"{_GOOGLE}/dd/1.0/container/": "Directory",
}
#: without one of these no such property is there
_MENTIONED = re.compile(
    rb"Thumbnails|/xap/1\.0/g/img/|HasExtendedXMP|/photos/1\.0/(image|depthmap|camera|container)/|/photos/dd/"
)
#: what is worth a line where it is left out
_LOST = (
    (rb"HasExtendedXMP", "the second part of the original's XMP is not in the copy"),
    (rb"(MotionPhoto|MicroVideo)\W+1\b", "the video of the original, a motion photo, is not in the copy"),
)
_UNREADABLE = "the original's XMP cannot be read, may hold an unprotected preview, and is left out"
#: properties that say where, by namespace: IPTC's names of places, and in any namespace the GPS fields of all makers
_PLACES = {
    "http://ns.adobe.com/photoshop/1.0/": "City|State|Country",
    "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/": "Location|CountryCode",
    "http://iptc.org/std/Iptc4xmpExt/2008-02-29/": r"Location\w+",
}
_GPS = r"G[Pp][Ss]\w*"
_EVENT = (
    f'<rdf:li xmlns:rdf="{_RDF}" xmlns:stEvt="http://ns.adobe.com/xap/1.0/sType/ResourceEvent#" '
    'rdf:parseType="Resource"><stEvt:action>edited</stEvt:action><stEvt:softwareAgent>{agent}</stEvt:softwareAgent>'
    "</rdf:li>"
)
_LIST = f'<rdf:Seq xmlns:rdf="{_RDF}">{{event}}</rdf:Seq>'
_HISTORY = (
    f'<rdf:Description xmlns:rdf="{_RDF}" rdf:about="" xmlns:xmpMM="{_XMP_MM}"><xmpMM:History>{{list}}</xmpMM:History>'
    "</rdf:Description>"
)
_PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    f'<rdf:RDF xmlns:rdf="{_RDF}">{{history}}</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)

Node = minidom.Element | minidom.Attr


def upright(xmp: bytes, turned: bool) -> tuple[bytes | None, tuple[str, ...]]:
    """The XMP without `_LEFT_OUT` and, for a picture that was `turned`, with the orientation set to 1; and a line on
    each loss that is worth one. Where it cannot be parsed, as it is, or None if it may hold a preview."""
    text = xmp.replace(b"\0", b"")  # of UTF-16
    mentioned = _MENTIONED.search(text) is not None
    if not (turned or mentioned):
        return xmp, ()

    def change(document: minidom.Document) -> bool:
        upright_now = turned and _set_upright(document)
        return _remove(document, _is_left_out) or upright_now

    edited = _edited(xmp, change)
    if edited is None:
        return (None, (_UNREADABLE,)) if mentioned else (xmp, ())
    return edited, tuple(line for pattern, line in _LOST if re.search(pattern, text))


def without_places(xmp: bytes) -> bytes | None:
    """The XMP without what says where the picture was taken: the same bytes where nothing does, None where it cannot
    be parsed."""
    return _edited(xmp, lambda document: _remove(document, _is_place))


def with_event(xmp: bytes | None, agent: str) -> bytes | None:
    """The XMP, or a new one, with a line in its history: edited, by `agent`. None where it cannot be parsed."""
    event = _EVENT.format(agent=agent)
    if xmp is None:
        return _PACKET.format(history=_HISTORY.format(list=_LIST.format(event=event))).encode()
    return _edited(xmp, lambda document: _add_event(document, event))


def _edited(xmp: bytes, change: Callable[[minidom.Document], bool]) -> bytes | None:
    """The XMP after `change`, as it is where that returns False; None where it cannot be parsed."""
    try:
        document = _parsed(xmp)
        return "".join(node.toxml() for node in document.childNodes).encode() if change(document) else xmp
    except (expat.ExpatError, RecursionError, ValueError, LookupError):
        return None


def _parsed(xmp: bytes) -> minidom.Document:
    def refuse(*_: object) -> None:
        raise ValueError("a document type")

    data = xmp.rstrip(b"\0")
    if data[:2] in (b"\xff\xfe", b"<\0"):  # UTF-16, of whose last character half is gone now
        data += b"\0" * (len(data) % 2)
    if len(data) > LONGEST:
        raise ValueError("too long")
    first = expat.ParserCreate()
    first.StartDoctypeDeclHandler = refuse
    first.Parse(data, True)
    return minidom.parseString(data)


def _remove(document: minidom.Document, unwanted: Callable[[Node], bool]) -> bool:
    """Take the elements and attributes out; ValueError where that is all there is."""
    root = document.documentElement
    if root is None or unwanted(root):
        raise ValueError("nothing is left")
    found = False
    for element in document.getElementsByTagName("*"):
        for attribute in list((element.attributes or {}).values()):
            if unwanted(attribute):
                element.removeAttributeNode(attribute)
                found = True
        kept = [child for child in element.childNodes if not (isinstance(child, minidom.Element) and unwanted(child))]
        if len(kept) < len(element.childNodes):
            element.childNodes[:] = kept  # removeChild would look each one up
            found = True
    return found


def _is_left_out(node: Node) -> bool:
    names = _LEFT_OUT.get(node.namespaceURI or "")
    return names is not None and re.fullmatch(names, node.localName or "") is not None


def _is_place(node: Node) -> bool:
    names = f"{_PLACES.get(node.namespaceURI or '', _GPS)}|{_GPS}"
    return node.namespaceURI != _DECLARATION and re.fullmatch(names, node.localName or "") is not None


def _set_upright(document: minidom.Document) -> bool:
    found = False
    for element in document.getElementsByTagName("*"):
        if element.getAttributeNS(_TIFF, "Orientation") in set("2345678"):
            element.getAttributeNodeNS(_TIFF, "Orientation").value = "1"  # type: ignore[union-attr]
            found = True
        if (element.namespaceURI, element.localName) == (_TIFF, "Orientation"):
            element.childNodes[:] = [document.createTextNode("1")]
            found = True
    return found


def _add_event(document: minidom.Document, event: str) -> bool:
    """To the picture's own history: that of an ingredient may be elsewhere in the tree."""
    root = next(iter(document.getElementsByTagNameNS(_RDF, "RDF")), None)
    if root is None:
        raise ValueError("no XMP")
    own = [entry for description in _elements(root) for entry in _elements(description)]
    history = next((e for e in own if (e.namespaceURI, e.localName) == (_XMP_MM, "History")), None)
    events = history and next(iter(_elements(history)), None)
    if events is not None:
        place, new = events, event
    elif history is not None:
        place, new = history, _LIST.format(event=event)
    else:
        place, new = root, _HISTORY.format(list=_LIST.format(event=event))
    added = minidom.parseString(new.encode()).documentElement
    assert added is not None
    place.appendChild(document.importNode(added, True))
    return True


def _elements(parent: minidom.Element) -> list[minidom.Element]:
    return [child for child in parent.childNodes if isinstance(child, minidom.Element)]
