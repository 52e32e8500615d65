"""What there is to translate: numbers below a million in five languages, and English dates."""

import datetime
import random

#: languages that num2words writes; Chinese has its own rules below
WRITTEN = ("en", "fr", "de", "es")
#: every direction, by its tag; English <-> ISO is about dates, the others are about numbers
TAGS = tuple(tag for other in ("fr", "de", "es", "zh", "iso") for tag in (f"en->{other}", f"{other}->en"))
DATE_TAGS = ("en->iso", "iso->en")

MILLION = 1_000_000
FIRST_DAY, LAST_DAY = datetime.date(1900, 1, 1).toordinal(), datetime.date(2099, 12, 31).toordinal()
# the ways in which an English date is written: (format, locale) as babel names them
_DATE_FORMATS = [(form, locale) for locale in ("en_US", "en_GB") for form in ("full", "long", "medium")]

_CHINESE_DIGITS = "零一二三四五六七八九"
_CHINESE_UNITS = ((1000, "千"), (100, "百"), (10, "十"))


def is_held_out(value):
    """Whether a number, or the ordinal of a date, is kept from training, in all languages: about one in fifty.

    Never zero: its word is in no other number's.
    """
    return value > 0 and value * 2654435761 % 2**32 < 2**32 // 50  # Knuth's multiplicative hash: no pattern in words


def number_in_words(value, language):
    """A number from 0 to 999999 as it is said: "twenty-one", "vingt et un", "einundzwanzig", "veintiuno", "二十一"."""
    if language == "zh":
        return number_in_chinese(value)
    words = _num2words()(value, lang=language)
    if language == "es":  # num2words does not shorten uno before mil
        words = words.replace("veintiuno mil", "veintiún mil").replace("uno mil", "un mil")
    return words


def as_typed(text, rng):
    """A text as people type it who leave out commas, hyphens or "and".

    >>> rng = random.Random(3)
    >>> {as_typed("one thousand, two hundred and thirty-four", rng) for _ in range(100)} >= {
    ...     "one thousand two hundred and thirty-four", "one thousand, two hundred thirty four"}
    True
    """
    for sign, instead in ((",", ""), ("-", " "), (" and ", " ")):
        if rng.random() < 0.3:
            text = text.replace(sign, instead)
    return text


def number_in_chinese(value):
    """A number from 0 to 999999 in Chinese numerals; a zero in between is said once, 一十 at the beginning as 十.

    >>> [number_in_chinese(value) for value in (0, 12, 101, 1010, 20_300, 100_005)]
    ['零', '十二', '一百零一', '一千零一十', '二万零三百', '十万零五']
    """
    if value == 0:
        return _CHINESE_DIGITS[0]
    high, low = divmod(value, 10_000)
    text = _chinese_below_10000(high) + "万" if high else ""
    if low:
        text += ("零" if high and low < 1000 else "") + _chinese_below_10000(low)
    return text.removeprefix("一") if text.startswith("一十") else text


def _chinese_below_10000(value):
    text, skipped = "", False
    for unit, sign in _CHINESE_UNITS:
        digit, value = divmod(value, unit)
        if digit:
            text += ("零" if skipped and text else "") + _CHINESE_DIGITS[digit] + sign
        skipped = not digit
    if value:
        text += ("零" if skipped and text else "") + _CHINESE_DIGITS[value]
    return text


def draw_numbers(count, rng, held_out, uniform=False):
    """Numbers below a million, held out or not; half of them with as many digits as a die says, if not `uniform`."""

    def draw():
        low, high = 0, MILLION
        if not uniform and rng.random() < 0.5:
            digits = rng.randint(1, 6)
            low, high = 10 ** (digits - 1) if digits > 1 else 0, 10**digits
        return rng.randrange(low, high)

    return _draw(count, draw, held_out)


def draw_days(count, rng, held_out):
    """Ordinals of days from 1900 to 2099, held out or not."""
    return _draw(count, lambda: rng.randint(FIRST_DAY, LAST_DAY), held_out)


def _draw(count, draw, held_out):
    found = []
    while len(found) < count:
        value = draw()
        if is_held_out(value) == held_out:
            found.append(value)
    return found


def make_corpus(tags, count, seed, held_out, uniform=False):
    """{tag: [(source, target)]}: so many texts for each direction, about the same values in all languages.

    Dates are half as many: there are not that many days. What is held out is not `as_typed`.
    """
    rng = random.Random(f"{seed} {held_out}")
    values, days = draw_numbers(count, rng, held_out, uniform), draw_days((count + 1) // 2, rng, held_out)
    languages = {language for tag in tags if tag not in DATE_TAGS for language in tag.split("->")}
    words = {language: [number_in_words(value, language) for value in values] for language in sorted(languages)}
    corpus = {}
    for tag in tags:
        source, target = tag.split("->")
        if tag in DATE_TAGS:
            corpus[tag] = [date_pair(tag, datetime.date.fromordinal(day), rng) for day in days]
        else:
            corpus[tag] = list(zip(words[source], words[target], strict=True))
        if not held_out and source != "iso":
            corpus[tag] = [(as_typed(text, rng), translated) for text, translated in corpus[tag]]
    return corpus


def date_pair(tag, day, rng):
    """(source, target) of a date: read in any of the ways it is written, written in one."""
    form, locale = rng.choice(_DATE_FORMATS) if tag == "en->iso" else ("long", "en_US")
    pair = _format_date()(day, form, locale=locale), day.isoformat()
    return pair if tag == "en->iso" else pair[::-1]


def _num2words():
    try:
        from num2words import num2words
    except ImportError:
        raise ImportError("the numbers' words need num2words: pip install num2words") from None
    return num2words


def _format_date():
    try:
        from babel.dates import format_date
    except ImportError:
        raise ImportError("the dates need Babel: pip install babel") from None
    return format_date
