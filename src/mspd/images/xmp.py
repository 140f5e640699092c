"""What is changed in XMP, the description of a picture in XML: set upright, the preview and the place taken out, a line
added to the history.

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
_DECLARATION = "http://www.w3.org/2000/xmlns/"
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


def upright(xmp: bytes, turned: bool) -> bytes:
    """The XMP without the preview in it (a small unprotected copy) and, for a picture that was `turned`, with the
    orientation set to 1; as it is where it cannot be parsed."""
    if not turned and b"Thumbnails" not in xmp.replace(b"\0", b""):
        return xmp

    def change(document: minidom.Document) -> bool:
        upright_now = turned and _set_upright(document)
        return _remove(document, _is_preview) or upright_now

    return _edited(xmp, change) or xmp


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


def _is_preview(node: Node) -> bool:
    return (node.namespaceURI, node.localName) == (_XMP, "Thumbnails")


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
