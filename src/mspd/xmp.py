"""What is changed in XMP, the description of a picture in XML: the place taken out, a line added to the history.

Names are compared by their namespaces, whatever prefixes the file gives them, and in any encoding that XML allows.
"""

import re
from collections.abc import Callable
from xml.dom import minidom
from xml.parsers.expat import ExpatError

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_XMP_MM = "http://ns.adobe.com/xap/1.0/mm/"
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
_HISTORY = (
    f'<rdf:Description xmlns:rdf="{_RDF}" rdf:about="" xmlns:xmpMM="{_XMP_MM}"><xmpMM:History><rdf:Seq>{{event}}'
    "</rdf:Seq></xmpMM:History></rdf:Description>"
)
_PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    f'<rdf:RDF xmlns:rdf="{_RDF}">{{history}}</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)


def without_places(xmp: bytes) -> bytes | None:
    """The XMP without what says where the picture was taken: the same bytes where nothing does, None where it cannot
    be parsed."""
    return _edited(xmp, _remove_places)


def with_event(xmp: bytes | None, agent: str) -> bytes | None:
    """The XMP, or a new one, with a line in its history: edited, by `agent`. None where it cannot be parsed."""
    event = _EVENT.format(agent=agent)
    if xmp is None:
        return _PACKET.format(history=_HISTORY.format(event=event)).encode()
    return _edited(xmp, lambda document: _add_event(document, event))


def _edited(xmp: bytes, change: Callable[[minidom.Document], bool | None]) -> bytes | None:
    """The XMP after `change`, as it is where that returns False; None where it cannot be parsed or that returns None.
    A document type, of which XMP has none, may hold entities: it is not accepted."""
    try:
        document = minidom.parseString(xmp)
        changed = None if document.doctype is not None else change(document)
        text = "".join(node.toxml() for node in document.childNodes) if changed else ""
    except (ExpatError, RecursionError, ValueError, LookupError):
        return None
    if changed is None:
        return None
    return text.encode() if changed else xmp


def _remove_places(document: minidom.Document) -> bool:
    found = False
    for element in document.getElementsByTagName("*"):
        for attribute in list((element.attributes or {}).values()):
            if _is_place(attribute):
                element.removeAttributeNode(attribute)
                found = True
        if _is_place(element) and element.parentNode is not None:
            element.parentNode.removeChild(element)
            found = True
    return found


def _is_place(node: minidom.Element | minidom.Attr) -> bool:
    name = node.localName or ""
    return re.fullmatch(f"{_PLACES.get(node.namespaceURI or '', _GPS)}|{_GPS}", name) is not None


def _add_event(document: minidom.Document, event: str) -> bool | None:
    lists = [
        child
        for history in document.getElementsByTagNameNS(_XMP_MM, "History")
        for child in history.childNodes
        if (child.namespaceURI, child.localName) == (_RDF, "Seq")
    ]
    roots = document.getElementsByTagNameNS(_RDF, "RDF")
    if not lists and not roots:
        return None
    new = minidom.parseString((event if lists else _HISTORY.format(event=event)).encode()).documentElement
    assert new is not None
    (lists or roots)[0].appendChild(document.importNode(new, True))
    return True
