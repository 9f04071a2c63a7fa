"""Structured personal data in text, found by pattern and proved by check digit where there is one; names only after telling phrases.

Names are a heuristic: 'my name is ...', a title, or a line that closes a letter. A name without such a cue is not found.
"""

from __future__ import annotations

import ipaddress
import re
from bisect import bisect_left
from collections.abc import Collection, Iterator
from typing import NamedTuple

KINDS = ("URL", "EMAIL", "IBAN", "CARD", "SSN", "IP", "PHONE", "NAME")
"""What is looked for; where two overlap, the earlier in this order is taken."""


class Span(NamedTuple):
    """One finding: `text[start:end]`."""

    kind: str
    start: int
    end: int
    text: str


def find(text: str, kinds: Collection[str] = KINDS) -> list[Span]:
    """Findings in `text`, by position, none overlapping another."""
    taken: list[Span] = []
    for kind in KINDS if _STRUCTURED.search(text) else ("NAME",):
        if kind in kinds:
            for start, end in _FINDERS[kind](text):
                place = bisect_left(taken, start, key=lambda span: span.start)  # the neighbours alone can overlap: a text of megabytes has very many findings
                if (place == 0 or taken[place - 1].end <= start) and (place == len(taken) or end <= taken[place].start):
                    taken.insert(place, Span(kind, start, end, text[start:end]))
    return taken


def mask(text: str, kinds: Collection[str] = KINDS) -> str:
    """The text with every finding replaced by its kind in brackets, for example `[EMAIL]`."""
    spans = find(text, kinds)
    if not spans:
        return text
    pieces, end = [], 0
    for span in spans:
        pieces += [text[end : span.start], f"[{span.kind}]"]
        end = span.end
    return "".join([*pieces, text[end:]])


def passes_luhn(digits: str) -> bool:
    """Luhn's check digit (ISO/IEC 7812-1, annex B)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def passes_mod97(iban: str) -> bool:
    """The IBAN check (ISO 13616): letters as numbers from 10, country and check digits moved to the end, remainder 1."""
    moved = iban[4:] + iban[:4]
    return int("".join(str(int(c, 36)) for c in moved)) % 97 == 1


_EMAIL = re.compile(r"(?<![\w.+%'-])[\w.+%'-]*[\w+%-](?:@|\s?[\[(]\s?at\s?[\])]\s?)(?:[^\W_](?:[\w-]*[^\W_])?(?:\.|\s?[\[(]\s?dot\s?[\])]\s?))+[^\W\d_]{2,24}(?![\w@-])", re.I)
_URL = re.compile(r"\b[a-z][a-z0-9+.-]{1,15}://[^\s/:@\"'<>]+:[^\s/@\"'<>]+@[^\s\"'<>]+", re.I)
_CARD = re.compile(r"(?<![\w-])(?<!\d[ .])\d(?:[ -]?\d){11,18}(?![\w-]|[ .]\d)")
_CARD_BRANDS = re.compile(
    r"(?:4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}|3(?:0[0-5]|[68]\d)\d{11}"
    r"|6(?:011|5\d\d|4[4-9]\d)\d{12}|35\d{14}|62\d{14,17}|(?:5[0678]|6[0379])\d{10,17})"
)
_IBAN = re.compile(r"(?<![A-Za-z0-9])([A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]){11,30})")
_IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO",
        16: "BE",
        18: "DK FO FI GL NL SD",
        19: "MK SI",
        20: "AT BA EE KZ LT LU MN XK",
        21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA",
        23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST",
        26: "IS TR",
        27: "BI DJ FR GR IT MC MR SM",
        28: "AL AZ BY CY DO GT HU LB NI PL SV",
        29: "BR EG PS QA UA",
        30: "JO KW MU",
        31: "MT SC",
        32: "LC",
        33: "RU",
    }.items()
    for country in countries.split()
}
_SSN = re.compile(r"(?<![\w-])(?!000|666|9\d\d)\d{3}(?P<sign>[- ]?)(?!00)\d{2}(?P=sign)(?!0000)\d{4}(?![\w-])")
_SSN_CUE = re.compile(r"\b(?:ssn|social security|tax id|itin)\b[^\d]{0,25}$", re.I)
_IPV4 = re.compile(r"(?<![\w.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\w]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9a-f]{0,4}:){2,7}[0-9a-f]{0,4}(?![\w:])", re.I)
_VERSION_CUE = re.compile(r"\b(?:v|ver|version|release|firmware|build|update|section|chapter)\.?\s*$", re.I)
_PHONE = re.compile(
    r"(?<![\w@/.:#-])(?<!\d[ ,])(?:"
    r"\+\s?\d{1,3}(?:[ ./-]?\(?0?\)?[ ./-]?\d{1,5}){2,6}"  # international
    r"|00[1-9]\d{0,2}(?:[ ./-]\d{2,8}){2,5}"
    r"|(?:1[ .-])?\(\d{3}\)[ .-]?\d{3}[ .-]?\d{4}"  # North America
    r"|(?:1[ .-])?[2-9]\d{2}(?P<sign>[ .-])[2-9]\d{2}(?P=sign)\d{4}"
    r"|\(0\d{1,4}\)[ ]?\d{3,4}[ -]?\d{3,5}"  # national with leading zero
    r"|0\d{1,4}[ /-]\d{3,8}(?:[ -]\d{2,6}){0,4}"
    r"|07\d{3}[ ]?\d{6}|01[5-7]\d{8,9}"
    r")(?: ?(?:ext\.?|x) ?\d{1,5})?(?![\w/]|-\d|\.\d)"
)
_PHONE_RUN = re.compile(r"(?<![\w@/.:#-])(?:\d{3}[ .-]\d{4}|\d{9,12})(?![\w/-]|\.\d)")
_PHONE_CUE = re.compile(
    r"(?:\b(?:phone|telephone|tel|mobile|cell|cellphone|whatsapp|fax|landline|handy|telefon|call(?: me)?(?: back)?|ring me|text me|sms|reach(?: me)?|contact me|my number|numbers?(?: is)?)\b[^\d+]{0,20}|\b(?:['’]s|is|am|me|us|him|her) on )$",
    re.I,
)
_NOT_PHONE_CUE = re.compile(
    r"(?:\b(?:order|orders|invoice|ticket|tracking|reference|ref|case|booking|transaction|account|acct|policy|serial|id|parcel|shipment|article|item|sku|isbn|card|model|part|product|code|version|customer|member|receipt|confirmation)"
    r"\b(?: (?:number|no|nr|num|id|code|is|was|called|for))*\s*\.?\s*(?:#|:|=|is)?\s*[A-Za-z]{0,4}[-#]?|#)$",
    re.I,
)
_NAME_PART = r"(?:[A-ZÀ-ÖØ-ÞĀ-Ž](?:[a-zß-öø-ÿā-ž]+|\.)?(?:['’-][A-ZÀ-Þ]?[a-zß-öø-ÿā-ž]+)*|(?:Mc|Mac|O['’]|D['’])[A-Z][a-z]+)"
_PARTICLE = r"(?:(?:van|von|de|del|della|der|den|di|da|dos|la|le|bin|al|ten|zu)\s)"
_ONE_NAME = rf"{_NAME_PART}(?:[ \t]{_PARTICLE}{{0,2}}{_NAME_PART}){{0,3}}"
_TWO_NAMES = rf"{_NAME_PART}(?:[ \t]{_PARTICLE}{{0,2}}{_NAME_PART}){{1,3}}"
_SAID = (  # what stands before a name of one or more words
    r"my (?:full |first |last |given )?name(?:['’]s| is|:)|the name(?:['’]s| is)|in the name of|under the name(?: of)?|name on (?:the|my) (?:account|card|order)(?: is|:)"
    r"|(?:full |customer |account |holder )name:|name:|account holder:?|mein name ist|ich hei(?:ß|ss)e|je m['’]appelle|me llamo|mi nombre es"
)
_RELATION = r"(?:my|our|his|her) (?:husband|wife|partner|son|daughter|brother|sister|mother|father|mum|mom|dad|colleague|boss|neighbour|neighbor|friend|assistant|flatmate|roommate|doctor|nurse|patient|agent|manager)"
_BEFORE_TWO = (
    r"i am|i['’]m|this is|it['’]s|it was|on behalf of|signed,?|yours,|ask for|(?:speak|speaking|spoke|talk|talked|talking|chatted) (?:to|with)|attn:?|attention:?|addressed to|registered to|belongs to"
)
_CLOSING = (
    r"(?:(?:best|kind|warm|kindest|warmest|many|with)\s)?(?:regards|wishes|greetings)|sincerely(?: yours)?|yours (?:truly|faithfully|sincerely)|cordially|mfg|viele grüße|mit freundlichen grüßen"
)
_THANKS = r"(?<!no )(?:many )?thanks(?: a lot| so much| very much| again| in advance)?|thank you(?: very much| so much| again| in advance)?|ta(?: very much)?|cheers|best"
_TEXT_END = r"\s{0,20}[.!]?\s{0,20}(?=$|\n|\||[\[(<+\d])"
_NAMES: tuple[tuple[tuple[str, ...], re.Pattern[str]], ...] = (
    (("name", "holder", "hei", "appelle", "llamo", "nombre"), re.compile(rf"\b(?i:{_SAID})\s+({_ONE_NAME})")),
    (("mr", "ms", "mx", "dr", "prof", "herr", "frau", "miss"), re.compile(rf"\b(?:(?i:mr|mrs|ms|mx|dr|prof)|Herrn?|Frau|Mister|Miss)\b\.?\s+({_ONE_NAME})")),
    ((), re.compile(rf"\b(?i:{_BEFORE_TWO}|{_RELATION},?)\s+({_TWO_NAMES})")),
    ((" here", " speaking", " again"), re.compile(rf"(?:^|[.!?]\s+)({_TWO_NAMES}) (?i:here\b|speaking\b|again\b)")),
    (("regards", "wishes", "greetings", "sincerely", "yours", "cordially", "mfg", "grüße"), re.compile(rf"\b(?i:{_CLOSING})\s*+[,.!–—-]*+\s*+({_ONE_NAME}){_TEXT_END}")),
    (("thank", "ta,", "ta ", "cheers", "best", "much"), re.compile(rf"\b(?i:{_THANKS})\s{{0,20}}(?:[,–—-]|[.!,]?\s{{0,20}}\n)\s{{0,20}}({_ONE_NAME}){_TEXT_END}")),
    (("–", "—"), re.compile(rf"[–—]\s?({_ONE_NAME})\s*[.!]?\s*$")),
)
"""Patterns whose first group is a name, each behind words of which one must be there for it to match (none: always tried)."""
_PLACES = "road street close lane avenue drive court crescent terrace way square gardens grove hill park place row mews house apartment flat building floor suite"
_STOP_WORDS = (
    "a an the i i'm my we you he she it they this that these those not very so still just really also again already always never now here there where when why how what who which please "
    "thanks thank hello hi hey dear sir madam support team customer customers service services help desk sales billing order orders refund account accounts email phone card bank "
    "urgent asap no yes ok okay and or but for from with about on in at to of by as if because since after before until while all any some none good bad best worst "
    "unhappy happy angry disappointed frustrated upset confused worried sorry waiting trying looking getting having using writing calling asking wondering going "
    "can could would should will shall may might must do does did done is are was were be been am have has had get got let make made need want like "
    "everyone everybody anyone someone somebody nobody guys folks management manager monday tuesday wednesday thursday friday saturday sunday "
    "january february march april june july august september october november december "
    "android iphone ipad apple google amazon paypal visa mastercard windows microsoft black new first second last one two"
)
_NO_NAMES = frozenset(_STOP_WORDS.split())
_NO_LAST_NAMES = frozenset(_PLACES.split())
_STRUCTURED = re.compile(r"@|://|[\[(]\s?at\s?[\])]|\d(?:\D{0,3}\d){4}|(?:\d{1,3}\.){3}\d|:[0-9a-fA-F]{0,4}:")
"""Without any of these there is nothing but a name to be found."""


def _urls(text: str) -> Iterator[tuple[int, int]]:
    for match in _URL.finditer(text):
        yield match.start(), match.start() + len(match.group().rstrip(".,;:!?)"))


def _emails(text: str) -> Iterator[tuple[int, int]]:
    if "@" in text or "at" in text.casefold():
        yield from (match.span() for match in _EMAIL.finditer(text))


def _cards(text: str) -> Iterator[tuple[int, int]]:
    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match.group())
        if _CARD_BRANDS.fullmatch(digits) and passes_luhn(digits) and len(set(digits)) > 1:
            yield match.span()


def _ibans(text: str) -> Iterator[tuple[int, int]]:
    for match in _IBAN.finditer(text):
        length = _IBAN_LENGTHS.get(match.group(1)[:2].upper())
        if length is None:
            continue
        kept, end = "", match.start()
        for place in range(match.start(), match.end()):
            if text[place] not in " -":
                kept, end = kept + text[place], place + 1
            if len(kept) == length:
                break
        follows = text[end : end + 1]
        if len(kept) == length and not follows.isalnum() and passes_mod97(kept.upper()):
            yield match.start(), end


def _ssns(text: str) -> Iterator[tuple[int, int]]:
    for match in _SSN.finditer(text):
        if match.group("sign") == "-" or _SSN_CUE.search(text, max(0, match.start() - 50), match.start()):
            yield match.span()


def _addresses(text: str) -> Iterator[tuple[int, int]]:
    for match in _IPV4.finditer(text):
        if not _VERSION_CUE.search(text, max(0, match.start() - 20), match.start()):
            yield match.span()
    if text.count(":") > 1:
        for match in _IPV6.finditer(text):
            try:
                ipaddress.IPv6Address(match.group())
            except ValueError:
                continue
            if sum(c in "0123456789abcdefABCDEF" for c in match.group()) >= 4:
                yield match.span()


def _phones(text: str) -> Iterator[tuple[int, int]]:
    for match in _PHONE.finditer(text):
        digits = re.sub(r"\D", "", re.split(r"ext|x", match.group())[0])
        least = 9 if digits.startswith("0") else 7
        if least <= len(digits) <= 15 and (match.group().startswith("+") or not _NOT_PHONE_CUE.search(text, max(0, match.start() - 40), match.start())):
            yield match.start(), match.start() + len(match.group().rstrip())
    for match in _PHONE_RUN.finditer(text):
        before = max(0, match.start() - 40)
        if _PHONE_CUE.search(text, before, match.start()) and not _NOT_PHONE_CUE.search(text, before, match.start()):
            yield match.span()


def _names(text: str) -> Iterator[tuple[int, int]]:
    lowered = text.lower()
    for words_needed, pattern in _NAMES:
        if words_needed and not any(word in lowered for word in words_needed):
            continue
        for match in pattern.finditer(text):
            words = match.group(1).split()
            while words and words[-1].strip(".").casefold() in _NO_NAMES:
                words.pop()
            cut_to_one = len(words) == 1 and len(match.group(1).split()) > 1
            if words and not cut_to_one and len(match.group(1)) > 2 and words[0].casefold() not in _NO_NAMES and words[-1].casefold() not in _NO_LAST_NAMES:
                end = match.start(1) + match.group(1).rfind(words[-1]) + len(words[-1])
                yield match.start(1), end


_FINDERS = {"URL": _urls, "EMAIL": _emails, "IBAN": _ibans, "CARD": _cards, "SSN": _ssns, "IP": _addresses, "PHONE": _phones, "NAME": _names}
