"""Find and remove what identifies a private person: mail addresses, phone numbers, names with a home address (section 2.1).

Meta left out sites known to hold much personal data; here the data are removed from the page by patterns, as in most open
pipelines. Patterns know shapes, not people: a number spelled in words or a name without an address passes, and a
catalogue number shaped like a phone number is taken. The corpus stage measures both errors.
"""
from __future__ import annotations

import re
from dataclasses import dataclass

PLACEHOLDERS = {"mail": "[mail]", "phone": "[phone]", "address": "[address]"}

MAIL = re.compile(r"""(?x) (?:mailto:)? [\w.+'-]+ @ [\w-]+ (?: \.[\w-]+ )+
    | \b [\w.+-]+ \s? [(\[{<] \s? (?:at|@) \s? [)\]}>] \s? [\w-]+ (?: \s? (?: [(\[{<] dot [)\]}>] | \. ) \s? [\w-]+ )+
    | \b [\w.+-]+ \s at \s [\w-]+ (?: \s dot \s [\w-]+ )* \s dot \s
          (?:com|org|net|info|edu|de|fr|uk|example|test|invalid) \b """,
    re.IGNORECASE)

# Digits in groups. That may also be a date, opening hours, a span of years, a row of numbers: `_is_phone` looks closer.
PHONE = re.compile(r"""(?x) (?<![\w.,+=×*/-]) (?:\+\d{1,3}[ .-]?)? (?:\(\d{1,5}\)[ .-]?)?
                       \d{1,7} (?:[ ]?[ ./-][ ]?\d{2,7}){0,5} (?! \w | \s*= | [.,-]\d )""")
PHONE_CUE = re.compile(r"""(?xi) \b (?: phone|call|tel|telephone|mobile|cell|fax|ring|dial|text|whatsapp|sms|reach )
                           (?: s|ed|ing )? \b (?: [^.!?\n\d+(] | \.[ ] ){0,40} $""")
DATE = re.compile(r"\d\d?[.:]\d\d-\d\d?[.:]\d\d|\d{4}-\d\d-\d\d|\d\d?[./-]\d\d?[./-]\d{4}|1\d{3}-[12]\d{3}|20\d\d-20\d\d")

_NAME = r"(?:(?:Mrs?|Ms|Miss|Dr|Prof)\.? )?(?:[A-ZÉÖÜÄ][\w'’-]+|[A-Z]\.)(?: (?:[A-ZÉÖÜÄ][\w'’-]+|[A-Z]\.)){1,2}"
_KIND = r"(?:Street|St\.?|Lane|Ln\.?|Road|Rd\.?|Avenue|Ave\.?|Way|Row|Close|Square|Court|Drive|Hill|Gardens|Terrace)"
_NUMBER, _WORDS = r"\d{1,4}[a-d]?", r"(?:[A-Z][\w'’-]+ ){1,2}"
_STREET = rf"(?:{_NUMBER} {_WORDS}{_KIND}(?!\w)|{_WORDS}{_KIND} {_NUMBER}(?!\w))"
_TOWN = r"(?:(?:, ?|\n| in )(?:(?:[A-Z]{1,2}-?)?\d{4,5},? )?[A-Z]\w+(?:,? \d{4,5})?)?"
_LIVES = r"(?:,|:|;|\n| -|,? who| \()? ?(?:(?:lives|living|resides|resident|now) )?(?:at |in |of )?"
_LISTED = r"(?:(?:Mrs?|Ms|Miss|Dr|Prof)\.? )?[A-ZÉÖÜÄ][\w'’-]+, [A-ZÉÖÜÄ][\w'’-]+:"      # surname first, as in a register
ADDRESS = re.compile(rf"(?:{_NAME}{_LIVES}|{_LISTED} )(?:number |flat \d+, |No\. )?{_STREET}{_TOWN}\)?")

# Most pages hold nothing: these say so in a tenth of the time.
HINT_OF_MAIL = re.compile(r"@|[(\[{<] ?at ?[)\]}>]| dot ", re.IGNORECASE)
HINT_OF_ADDRESS = re.compile(rf"\b{_KIND}(?!\w)")
HINT_OF_PHONE = re.compile(r"\d[\d ./()-]{4,}\d")


@dataclass(frozen=True)
class Span:
    """A stretch of text [start, end) that identifies somebody; `kind` is mail, phone or address."""
    start: int
    end: int
    kind: str


def find_pii(text: str) -> list[Span]:
    """The spans of personal data in `text`, in order and without overlap; an address wins over a number inside it."""
    spans = [Span(*m.span(), "mail") for m in MAIL.finditer(text)] if HINT_OF_MAIL.search(text) else []
    if HINT_OF_ADDRESS.search(text):
        spans += [Span(*m.span(), "address") for m in ADDRESS.finditer(text)]
    if HINT_OF_PHONE.search(text):
        spans += [Span(*m.span(), "phone") for m in PHONE.finditer(text) if _is_phone(m)]
    kept: list[Span] = []
    for span in sorted(spans, key=lambda s: (s.start, -s.end)):
        if not kept or span.start >= kept[-1].end:
            kept.append(span)
    return kept


def _is_phone(match: re.Match[str]) -> bool:
    """Whether digits in groups are a phone number: 6–14 of them, no date, and a sign that they are meant to be dialled."""
    number = match.group()
    digits = sum(c.isdigit() for c in number)
    if not 6 <= digits <= 14 or DATE.fullmatch(number):
        return False
    cued = PHONE_CUE.search(match.string, max(0, match.start() - 40), match.start())
    if cued:
        return True
    grouped = any(c in number for c in "./-() ")
    return grouped and (number[0] in "+(0" or (digits >= 7 and " " not in number and "/" not in number))


def remove_pii(text: str, spans: list[Span] | None = None, placeholders: dict[str, str] | None = None) -> str:
    """`text` with each span replaced by its kind's placeholder (pass {} to leave nothing in its place)."""
    placeholders = PLACEHOLDERS if placeholders is None else placeholders
    parts, at = [], 0
    for span in find_pii(text) if spans is None else spans:
        parts += [text[at:span.start], placeholders.get(span.kind, "")]
        at = span.end
    return "".join([*parts, text[at:]])
