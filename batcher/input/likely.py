"""The likely encoding of a text that is not UTF-8: a word for an error's message, by the frequency of characters.

Invariant: it decides nothing, and names no encoding that would turn lines in UTF-8 into nonsense.
"""

from __future__ import annotations

import codecs
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

_SAMPLE = 2**19  # bytes that are looked at closely, at the beginning and where UTF-8 ends
_LONGEST = 2**28  # bytes that are looked at in all
_MOST_LINES = 300  # that are compared with each encoding
_LEAST_LIKELY = -10.0  # natural logarithm of the mean chance of a character: below it, no encoding fits
# The share of stretches that may look like UTF-8 by chance.
_MOST_BY_CHANCE = 0.02
_MOST_BY_CHANCE_WESTERN = 0.5

_STRETCH = re.compile(rb"[\x80-\xff]+")
_THREE_BYTES = re.compile(rb"(?<![\x80-\xff])(?:[\xe1-\xec\xee\xef][\x80-\xbf]{2}){2,}(?![\x80-\xff])")
_ACCENTS = re.compile(rb"(?:\xc3[\xa0-\xbf])+")
_LEAD_OF_THREE = 0xE0  # the least first byte of a character of three bytes in UTF-8
# Characters of most texts: ASCII, Latin to Cyrillic, Chinese, Japanese and Korean with their signs.
_USUAL = re.compile("[\t\r\n -~\u00a0-\u04ff\u2010-\u2030\u3000-\u30ff\u4e00-\u9fff\uac00-\ud7a3\uff00-\uffef]")
_LEAST_USUAL = 0.95
_LETTERS = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


class Likely(NamedTuple):
    """What a text that is not UTF-8 is likely to be.

    Attributes:
        codec: the likely encoding of the lines that are not UTF-8, or empty.
        described: the same for people.
        is_mixed: other lines are UTF-8.
    """

    codec: str
    described: str
    is_mixed: bool


def likely_encoding(text: Iterable[bytes]) -> Likely:
    """Guess the encoding of a text that is not UTF-8.

    Args:
        text: from its beginning, in pieces of any length.
    """
    sample, is_mixed = _sample(text)
    if wide := _wide(sample):
        return Likely(wide, f"{wide} (UTF-16 without a byte order mark)", is_mixed=False)
    lines = [line for line in sample.split(b"\n") if not line.isascii()]
    odd = [line for line in lines if not _is_utf8(line)]
    best = _best(b"\n".join(odd[:_MOST_LINES]))
    is_mixed = is_mixed or _is_mixed(sample, is_double=best not in _SINGLE)
    return Likely(best, _NAMES.get(best, ""), is_mixed)


def _wide(sample: bytes) -> str:
    """Return in which byte order a text is UTF-16, which alone has zero bytes; empty if it is likely in neither."""
    if b"\0" not in sample:
        return ""
    shares = {}
    for codec in ("utf-16-le", "utf-16-be"):
        chars = sample[: len(sample) // 2 * 2].decode(codec, "replace")
        shares[codec] = len(_USUAL.findall(chars)) / max(len(chars), 1)
    best = max(shares, key=shares.__getitem__)
    return best if shares[best] >= _LEAST_USUAL else ""


def _sample(text: Iterable[bytes]) -> tuple[bytes, bool]:
    """Return the first lines, and those from the first piece that is not UTF-8; and whether others surely are UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    sample, size, is_mixed, is_valid, end = bytearray(), 0, False, True, _SAMPLE
    for piece in text:
        size += len(piece)
        is_mixed = is_mixed or _THREE_BYTES.search(piece) is not None
        try:
            if is_valid:
                decoder.decode(piece)
        except UnicodeDecodeError:
            is_valid, end = False, len(sample) + _SAMPLE
            if size - len(piece) > len(sample):  # pieces between were left out
                del sample[sample.rfind(b"\n") + 1 :]
        if len(sample) < end:
            sample += piece
        if size > _LONGEST:
            break
    return bytes(sample[: sample.rfind(b"\n")] if len(sample) < size and b"\n" in sample else sample), is_mixed


class Damage(NamedTuple):
    """What of a text is not UTF-8, and what is.

    Attributes:
        bad: bytes, or parts of characters, that are not.
        good: characters beyond ASCII that are.
    """

    bad: int
    good: int

    @classmethod
    def of(cls, text: Iterable[bytes]) -> Damage:
        """Count them, in a text from its beginning, in pieces of any length."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        bad = good = size = 0
        for piece in text:
            size += len(piece)
            decoded = decoder.decode(piece)
            replaced = decoded.count("\ufffd")
            bad += replaced
            good += 0 if piece.isascii() else sum(not char.isascii() for char in decoded) - replaced
            if size > _LONGEST:
                break
        return cls(bad + bool(decoder.getstate()[0]), good)


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def holds_utf8(sample: bytes, *, is_western: bool) -> bool:
    """Return whether a text that is said to be in another encoding has stretches that are UTF-8, and not by chance.

    Args:
        sample: of the text.
        is_western: the other encoding has one byte for a character.
    """
    stretches = list(_STRETCH.finditer(sample))
    sure = sum(_is_surely_utf8(sample, stretch) for stretch in stretches)
    return sure > (_MOST_BY_CHANCE_WESTERN if is_western else _MOST_BY_CHANCE) * len(stretches)


def _is_mixed(sample: bytes, *, is_double: bool) -> bool:
    """Return whether some stretches of other than ASCII bytes are UTF-8, and not by chance.

    Args:
        sample: of the text.
        is_double: the likely encoding has two bytes for a character.
    """
    three = total = 0
    for stretch in _STRETCH.finditer(sample):
        if _is_surely_utf8(sample, stretch):
            return True
        total += 1
        three += max(stretch.group()) >= _LEAD_OF_THREE and _is_utf8(stretch.group())
    return is_double and three > _MOST_BY_CHANCE * total


def _is_surely_utf8(sample: bytes, stretch: re.Match[bytes]) -> bool:
    """Return whether a stretch is UTF-8 and natural in no other encoding.

    That is two characters of three bytes, or letters with accents beside others: one of three bytes is an accent and
    two quotes in cp1252, and one of two bytes is a frequent character of GBK.
    """
    if _THREE_BYTES.fullmatch(stretch.group()):
        return True
    start, end = stretch.span()
    touches = (start > 0 and sample[start - 1] in _LETTERS) or (end < len(sample) and sample[end] in _LETTERS)
    return touches and _ACCENTS.fullmatch(stretch.group()) is not None


def _best(text: bytes) -> str:
    """Return the encoding in which a text is the likeliest, or nothing."""
    scores: dict[str, float] = {}
    for codec, chance in _CANDIDATES.items():
        try:
            decoded = text.decode(codec)
        except UnicodeDecodeError:
            continue
        counts = Counter(decoded)
        score = _FAVOUR.get(codec, 0.0) + sum(count * math.log(chance(char)) for char, count in counts.items())
        others = sum(count for char, count in counts.items() if not char.isascii())
        if codec in _SINGLE:
            score += math.log(0.05) * len(_SINGLE[codec].findall(decoded))
        ascii_part = (sum(counts.values()) - others) * math.log(_ASCII)
        if others and (score - ascii_part) / others > _LEAST_LIKELY:
            scores[codec] = score
    return max(scores, key=lambda codec: scores[codec], default="")


_TYPOGRAPHY = "\u2018\u2019\u201c\u201d\u2013\u2014\u2026\u2022\u20ac"  # quotes, dashes, ellipsis, bullet, euro

_ASCII = 1 / 30
"""The chance of a character of ASCII; those that all encodings see cancel each other out."""


def _lead(char: str, codec: str) -> int:
    """Return the first byte of a character of two bytes, or 0."""
    try:
        found = char.encode(codec)
    except UnicodeEncodeError:
        return 0
    return found[0] if len(found) == 2 else 0


def _by_lead(codec: str, *classes: tuple[int, int, float], frequent: str = "") -> Callable[[str], float]:
    """Return the chance of a character by its first byte.

    Args:
        codec: the encoding whose rows are meant: those of frequent characters stand apart from those of rare ones.
        classes: first and last first byte, and the chance of one of their characters.
        frequent: the most frequent characters, which are half of a text.
    """

    def chance(char: str) -> float:
        if char.isascii():
            return _ASCII
        if char in frequent:
            return 0.5 / len(frequent)
        lead = _lead(char, codec)
        return next((each for first, last, each in classes if first <= lead <= last), 1e-7)

    return chance


def _japanese(codec: str, *classes: tuple[int, int, float]) -> Callable[[str], float]:
    kanji = _by_lead(codec, *classes)

    def chance(char: str) -> float:
        if "\u3041" <= char <= "\u3096":
            return 0.5 / 83
        if "\u30a1" <= char <= "\u30fc":
            return 0.15 / 90
        return 1e-5 if "\uff61" <= char <= "\uff9f" else kanji(char)

    return chance


def _korean(char: str) -> float:
    if char.isascii():
        return _ASCII
    if char in _HANGUL:
        return 0.5 / len(_HANGUL)
    if "\uac00" <= char <= "\ud7a3":
        return 0.45 / 2350 if _lead(char, "euc_kr") else 1e-6
    return 1e-5


def _european(frequent: str) -> Callable[[str], float]:
    """Return the chance of a character in a text of Latin letters, of which these, with accents, are frequent."""

    def chance(char: str) -> float:
        if char.isascii():
            return _ASCII
        if char.lower() in frequent:
            return (0.6 if char.islower() else 0.15) / len(frequent)
        return 0.15 / 27 if char in _TYPOGRAPHY else 0.1 / 100

    return chance


def _cyrillic(char: str) -> float:
    if char.isascii():
        return _ASCII
    if "\u0400" <= char <= "\u045f":
        if char in "оеаинтсрвлкмдпу":
            return 0.7 / 15
        return 0.2 / 18 if char.islower() else 0.07 / 33
    return 0.03 / 60


def _letters_of(first: str, last: str, frequent: str) -> Callable[[str], float]:
    """Return the chance of a character in a text of another alphabet, of which these letters are 70%."""
    number = ord(last) - ord(first)

    def chance(char: str) -> float:
        if char.isascii():
            return _ASCII
        if char in frequent:
            return 0.7 / len(frequent)
        return 0.2 / number if first <= char <= last else 0.03 / 100

    return chance


_SIMPLIFIED = (
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道"
    "行所然家种事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心本前开但因只从想实日军者意无"
    "力它与长把机十民第公此已工使情明性知全三又关点正业外将两高间由问很最重并物手应战向头文体政美相见被利什二"
    "等产或新己制身果加西斯月话合回特代内信表化老给世位次度门任常先海通教儿原东声提立及比员解水名真论处走义各"
    "入几口认条平系气题活尔更别打女变四神总何电数安少报才结反受目太量再感建务做接必场件计管期市直德资命山金指"
    "克许统区保至队形社便空决治展马科司五评价店品质快购买送服客货款版差错钱满喜欢荐推包装色味难慢退换"
)
_TRADITIONAL = (
    "的一是不了在人有我他這個們中來上大為和國地到以說時要就出會可也你對生能而子那得於著下自之年過發後作里用道"
    "行所然家種事成方多經麼去法學如都同現當沒動面起看定天分還進好小部其些主樣理心本前開但因只從想實日者意無力"
    "它與長把機十民第公此已工使情明性知全三又關點正業外將兩高間由問很最重評價店品質快購買送服客貨款版差錯錢滿"
    "喜歡薦推包裝色味難慢退換"
)
_HANGUL = (
    "이다는을의에고가은지한하로사기를도서어리자대아인나시정들그으수라해장일제보과부있구상주전여안원들적었습니"
    "했스만요면게네것성오공조화동경신무관연문생국소비스좋품너재세물유계방회연영우말된될할때마음"
)
"""The characters that are about half of a text: of any text, and of reviews."""

_WESTERN = "éèêëàâäáãåçîïíôöóõøùûüúñßæœ"
_CENTRAL = "ąćęłńóśźżáčďéěíňřšťúůýžőűöü"
"""The letters with accents of the languages that the encodings are for."""

_CANDIDATES: dict[str, Callable[[str], float]] = {
    "gb18030": _by_lead(
        "gb2312", (0xA1, 0xA9, 0.06 / 400), (0xB0, 0xD7, 0.43 / 3755), (0xD8, 0xF7, 0.01 / 3008), frequent=_SIMPLIFIED
    ),
    "big5": _by_lead(
        "big5", (0xA1, 0xA3, 0.06 / 400), (0xA4, 0xC6, 0.43 / 5401), (0xC9, 0xF9, 0.01 / 7652), frequent=_TRADITIONAL
    ),
    "cp932": _japanese("cp932", (0x81, 0x84, 0.06 / 400), (0x88, 0x97, 0.28 / 2965), (0x98, 0xEA, 0.01 / 3390)),
    "euc_jp": _japanese("euc_jp", (0xA1, 0xA8, 0.06 / 400), (0xB0, 0xCF, 0.28 / 2965), (0xD0, 0xF4, 0.01 / 3390)),
    "cp949": _korean,
    "cp1252": _european(_WESTERN),
    "mac_roman": _european(_WESTERN),
    "cp1250": _european(_CENTRAL),
    "cp1251": _cyrillic,
    "koi8_r": _cyrillic,
    "cp1253": _letters_of("\u0384", "\u03ce", "αοιετνσηρκπλμυςάέίόή"),
    "cp1254": _european("çğıöşü\u0130âî"),
    "cp1255": _letters_of("\u05d0", "\u05ea", "יוהלאתרבמשנםדע"),
    "cp1256": _letters_of("\u060c", "\u0652", "اليمنوتربعدهسةجحقفك"),
    "cp874": _letters_of("\u0e01", "\u0e5b", "านรกอเงมยลวดทสตะปบคห\u0e31\u0e35\u0e48\u0e49\u0e34"),
    "cp866": _cyrillic,
    "iso8859_5": _cyrillic,
}
"""The encodings that are looked for, with the chance of a character in each; frequent characters share the chance of
their class alike."""

_SINGLE = {
    **dict.fromkeys(("cp1252", "mac_roman", "cp1250", "cp1254"), re.compile(r"[^\x00-\x7f](?=[^\x00-\x7f])")),
    **dict.fromkeys(
        ("cp1251", "koi8_r", "cp866", "iso8859_5", "cp1253", "cp1255", "cp1256", "cp874"),
        re.compile(r"[a-zA-Z](?=[^\x00-\x7f])|[^\x00-\x7f](?=[a-zA-Z])"),
    ),
}
"""The encodings of one byte, with the neighbours that are rare in them."""

_FAVOUR = {
    "gb18030": 3.0,
    "cp1252": 4.0,
    **dict.fromkeys(("cp1253", "cp1254", "cp1255", "cp1256", "cp874", "cp866", "iso8859_5"), -2.0),
}
"""Added to the logarithm of an encoding's chance: these are met more often than the others."""

_NAMES = {
    "gb18030": "gb18030 (Chinese, also called GBK)",
    "big5": "big5 (traditional Chinese)",
    "cp932": "cp932 (Japanese, also called Shift-JIS)",
    "euc_jp": "euc_jp (Japanese)",
    "cp949": "cp949 (Korean, also called EUC-KR)",
    "cp1252": "cp1252 (Western European)",
    "mac_roman": "mac_roman (Western European, of an old Mac)",
    "cp1250": "cp1250 (Central European)",
    "cp1251": "cp1251 (Cyrillic)",
    "koi8_r": "koi8_r (Cyrillic)",
    "cp1253": "cp1253 (Greek)",
    "cp1254": "cp1254 (Turkish)",
    "cp1255": "cp1255 (Hebrew)",
    "cp1256": "cp1256 (Arabic)",
    "cp874": "cp874 (Thai)",
    "cp866": "cp866 (Cyrillic, of DOS)",
    "iso8859_5": "iso8859_5 (Cyrillic)",
}
