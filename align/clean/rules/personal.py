"""Personal data in a text: find it, and put a word in its place.

Emails, public IP addresses, phone numbers, payment cards, IBANs and US social security numbers. The forms of emails and
IPs follow datatrove's `PIIFormatter` (FineWeb's); ours take letters of any script before the `@`, want a whole address
(datatrove reads one inside `1.2.3.4.5`), and look only where an `@` or a run of digits stands: time stays linear.
Names, street addresses and disguised forms (`bob at example dot com`) are not found: they need a model. A phone
number without a country's code, outside America, is found after a label (`Tel.: 020 7946 0958`): it may be any number.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator

KINDS = ("email", "ip", "phone", "card", "iban", "ssn")
Span = tuple[int, int, str]
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')  # of JSON

# RFC 5321: 64 characters before the @, 255 after it; `\w` for letters of any script
_LOCAL = re.compile(r"[\w!#$%&'*+=?^`{|}~-]+(?:\.[\w!#$%&'*+=?^`{|}~-]+)*\Z")
_DOMAIN = re.compile(
    r"(?:[^\W_](?:[\w-]*[^\W_])?\.)+"
    r"([A-Za-z]{2,24}(?![A-Za-z0-9@])|[^\W\d_]{2,24}(?![^\W_]|@)|xn--[a-z0-9-]+(?![\w@]))"
)
# Thai, Lao, Burmese, Khmer, Japanese, Chinese, Korean: words follow each other, and an address, without a space
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff]")
_FILES = {"png", "jpg", "jpeg", "gif", "webp", "svg", "css", "js", "pdf", "zip"}  # icon@2x.png is no address

_DIGIT = re.compile("[0-9]")
_IPV4 = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![\w]|\.[0-9])")
_IPV6 = re.compile(r"[23][0-9A-Fa-f]{3}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])")  # 2000::/3, all that is routed today
_NUMBERED = re.compile(r"\b(?:version|ver\.?|release|build|section|chapter|clause|firmware)\s*\Z", re.IGNORECASE)

_IBAN_FORM = r"[A-Z]{2}\d\d(?:[A-Z0-9]{11,30}|(?:[ -][A-Z0-9]{4}){2,7}(?:[ -][A-Z0-9]{1,4})?)(?![A-Za-z0-9])"
_IBAN = re.compile(f"{_IBAN_FORM}|{_IBAN_FORM.replace('A-Z0-9', 'a-z0-9').replace('[A-Z]', '[a-z]')}")
_HEXADECIMAL = re.compile("[a-f]{2}[0-9]+[a-f][0-9a-f]*")  # in small letters: some program's number, no account's
# Characters of an IBAN by country (ISO 13616 registry)
_IBAN_LENGTHS = {
    code: length
    for length, codes in {
        15: "NO", 16: "BE", 18: "DK FI FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU XK", 21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL", 24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO EG GT HN HU LB NI PL SV",
        29: "BR PS QA UA", 30: "JO KW MU YE", 31: "MT SC", 32: "LC", 33: "RU",
    }.items()
    for code in codes.split()
}  # fmt: skip

_GAP = r"[ .()\-\u2010-\u2013\u00a0/]"  # what may stand between the digits of a number
_RUN = re.compile(rf"[0-9](?:{_GAP}{{0,3}}[0-9]){{6,}}")  # seven digits: the shortest thing that is looked at
# A number is whole: not part of a word, a price, a path, a decimal or a longer number
_BEFORE, _AFTER = r"(?<![\w.\-/=#%$€£¥+&:])", r"(?![\w%]|[.\-/]\d)"
_NUMBER = re.compile(
    rf"(?P<ssn>{_BEFORE}(?!000|666|9)\d{{3}}-(?!00)\d\d-(?!0000)\d{{4}}{_AFTER})"
    rf"|(?P<card>{_BEFORE}(?:[2-6]\d{{3}}([ -])\d{{4}}\3\d{{4}}\3\d{{4}}(?:\3\d{{3}})?"
    rf"|3\d{{3}}([ -])\d{{6}}\4\d{{4,5}}|[2-6]\d{{12,18}}){_AFTER})"
    rf"|(?P<america>(?:(?<![\w.\-/=#%$€£¥&+])\+?1[ .-]?)?(?:(?<![\w/+])\([2-9]\d\d\)[ .-]?"
    rf"|(?:{_BEFORE}|(?<=1[ .-])|(?<=\+1))[2-9]\d\d[.-])[2-9]\d\d[ .-]\d{{4}}{_AFTER})"
    rf"|(?P<world>(?<![\w.\-/=#%$€£¥&+])(?:\+|00)[1-9](?:{_GAP}{{0,3}}\d){{6,14}}{_AFTER})"
)
_LABELLED = re.compile(rf"\(?\d(?:{_GAP}{{0,3}}\d){{6,14}}{_AFTER}")
# "Tel.: ", "call us at ", "phone number is ", "Fax (" right before a number
_LABEL = re.compile(
    r"\b(?:tel|telephone|phone|mobile|mob|cell|fax|whatsapp|call|dial|telefon|handy|téléphone|tél|teléfono)\b"
    r"[^\w\n+$€£¥]{0,4}(?:(?:number|no|us|me|at|on|is)\b[^\w\n+$€£¥]{0,3}){0,3}\Z",
    re.IGNORECASE,
)
_SOCIAL = re.compile(r"(?:\bssn|social security)\b[^\n\d]{0,20}\Z", re.IGNORECASE)
_SOCIAL_FORM = re.compile(r"(?!000|666|9)\d{3}([ -]?)(?!00)\d\d\1(?!0000)\d{4}(?!\w|-\d)")
_DATE = re.compile(r"(?:1[5-9]|20)\d\d[-/. ]\d\d?[-/. ]\d\d?|\d\d?[-/.]\d\d?[-/.](?:1[5-9]|20)?\d\d\b")


def find(text: str, kinds: Collection[str] = KINDS) -> list[Span]:
    """Personal data in `text` as `(start, end, kind)` in characters, in order; no two share a character.

    Where two kinds claim the same characters, the more exact one has them (a checksum before a form).
    """
    found: list[Span] = []
    if "email" in kinds and "@" in text:
        found += _emails(text)
    if _DIGIT.search(text):
        if "iban" in kinds:
            found += _ibans(text)
        if "ip" in kinds:
            found += _addresses(text)
        if {"card", "ssn", "phone"} & set(kinds):
            found += (span for span in _numbers(text) if span[2] in kinds)
    if len(found) < 2:
        return found
    taken: list[Span] = []
    for span in sorted(found, key=lambda s: (s[0], -s[1])):
        if not taken or span[0] >= taken[-1][1]:
            taken.append(span)
    return taken


def mask(text: str, kinds: Collection[str] = KINDS) -> tuple[str, Counter[str]]:
    """Replace personal data by words such as `<email>`.

    Args:
        kinds: which of `KINDS` to look for.

    Returns:
        The text, and how many of each kind were replaced.
    """
    spans = find(text, kinds)
    counts: Counter[str] = Counter()
    parts, at = [], 0
    for start, end, kind in spans:
        parts += [text[at:start], f"<{kind}>"]
        counts[kind] += 1
        at = end
    return "".join([*parts, text[at:]]) if spans else text, counts


def mask_json(text: str, kinds: Collection[str] = KINDS) -> str:
    """Replace personal data in all strings of a JSON text, also in JSON within a string; the rest stays as it is."""

    def masked(match: re.Match[str]) -> str:
        string = json.loads(match[0])
        inside = mask_json(string, kinds) if _is_json(string) else mask(string, kinds)[0]
        return match[0] if inside == string else json.dumps(inside)

    return _STRING.sub(masked, text)


def _is_json(text: str) -> bool:
    if not text.startswith(("{", "[")):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def veil(text: str) -> str:
    """The text for showing: letters and digits of personal data as dots, every character where it was."""
    parts, at = [], 0
    for start, end, _ in find(text):
        parts += [text[at:start], re.sub(r"\w", "•", text[start:end])]
        at = end
    return "".join([*parts, text[at:]])


def _emails(text: str) -> Iterator[Span]:
    """Around every @: the longest name before it and the domain after it."""
    at, last = text.find("@"), 0
    while at >= 0:
        # `key=bob@…` and `path/bob@…`: what stands before the last = or / is no name
        before = text[max(last, at - 64) : at]
        before = before[max(before.rfind("="), before.rfind("?"), before.rfind("&")) + 1 :]
        local, domain = _LOCAL.search(before), _DOMAIN.match(text, at + 1, at + 256)
        if local and domain and domain[1].lower() not in _FILES:
            name = _UNSPACED.split(local[0])[-1] or local[0]
            name = name.lstrip("'`{|*_~")
            if name:
                yield at - len(name), domain.end(), "email"
                last = domain.end()
        at = text.find("@", at + 1)


def _addresses(text: str) -> Iterator[Span]:
    """Public IP addresses. `version 1.2.3.4` and a part of a longer number are none."""
    for pattern in (_IPV4, _IPV6):
        for match in pattern.finditer(text):
            start = match.start()
            if pattern is _IPV4 and text[max(0, start - 7) : start].lower() == "::ffff:":  # the same in IPv6's form
                start -= 7
            before = text[start - 1 : start]
            if before and (before.isalnum() or before in "._:-"):
                continue
            if pattern is _IPV4 and _NUMBERED.search(text, max(0, start - 16), start):
                continue
            try:
                public = ipaddress.ip_address(match[0]).is_global
            except ValueError:
                continue
            if public:
                yield start, match.end(), "ip"


def _ibans(text: str) -> Iterator[Span]:
    """International bank account numbers: the country's length, and 1 modulo 97 (ISO 7064)."""
    for match in _IBAN.finditer(text):
        start, length = match.start(), _IBAN_LENGTHS.get(match[0][:2].upper())
        if length is None or text[start - 1 : start].isalnum():
            continue
        end, characters = start, ""
        while end < match.end() and len(characters) < length:
            characters += text[end] if text[end].isalnum() else ""
            end += 1
        if len(characters) < length or text[end : end + 1].isalnum() or _HEXADECIMAL.fullmatch(characters):
            continue
        if int("".join(str(int(c, 36)) for c in characters[4:] + characters[:4])) % 97 == 1:
            yield start, end, "iban"


def _numbers(text: str) -> Iterator[Span]:
    """Cards, social security and phone numbers in every run of seven digits or more."""
    for run in _RUN.finditer(text):
        start = run.start()
        opened = max(0, start - 2)  # a + or ( before the first digit, and 2 characters after the last
        if _SOCIAL.search(text, max(0, start - 40), start) and (social := _SOCIAL_FORM.match(text, start)):
            yield start, social.end(), "ssn"
            continue
        labelled = _LABEL.search(text, max(0, start - 40), start)
        found = False
        for match in _NUMBER.finditer(text, opened, run.end() + 2):
            kind, end = str(match.lastgroup), match.end()
            if kind == "card":
                end = _card_end(match[0]) + match.start()
            elif kind == "world" and not _is_international(match[0]):
                continue
            if end > match.start():
                found = True
                yield match.start(), end, kind if kind in ("card", "ssn") else "phone"
        if labelled and not found and not _DATE.match(text, start):
            number = _LABELLED.match(text, start - (text[start - 1 : start] == "("))
            if number:
                yield number.start(), number.end(), "phone"


def _is_international(number: str) -> bool:
    """+44 20 7946 0958: 8 to 15 digits (E.164). +1 has ten more; 00… needs gaps, or it is any long number."""
    digits = re.sub(r"\D", "", number)
    if not number.startswith("+"):
        return number != digits and 8 <= len(digits) - 2 <= 15
    if digits[0] == "1":
        return re.fullmatch(r"1[2-9]\d\d[2-9]\d{6}", digits) is not None
    return 8 <= len(digits) <= 15


def _card_end(number: str) -> int:
    """Where a card number ends in `number`: all of it, or less the last three digits; 0 where it is none."""
    ends = [len(number), len(number) - 4] if number[4] in " -" and len(number) > 19 else [len(number)]
    return next((end for end in ends if _is_card(re.sub(r"\D", "", number[:end]))), 0)


def _is_card(digits: str) -> bool:
    """An issuer's prefix with its length (ISO/IEC 7812), and Luhn's checksum."""
    four, length = int(digits[:4]), len(digits)
    issued = (
        (digits[0] == "4" and length in (13, 16, 19))  # Visa
        or ((5100 <= four < 5600 or 2221 <= four <= 2720) and length == 16)  # Mastercard
        or (digits[:2] in ("34", "37") and length == 15)  # American Express
        or ((digits[:2] in ("36", "38") or 3000 <= four <= 3059) and length == 14)  # Diners Club
        or ((3528 <= four <= 3589 or four == 6011 or 6440 <= four <= 6599) and 16 <= length <= 19)  # JCB, Discover
        or (digits[:2] == "62" and 16 <= length <= 19)  # UnionPay
    )
    if not issued or len(set(digits)) < 2:
        return False
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0
