"""The corpus: numbers below a million in five languages, and English dates."""

import datetime
import random

#: languages that num2words writes; Chinese has its own rules below
WRITTEN = ("en", "fr", "de", "es")
#: every direction, by its tag; English <-> ISO is about dates, the others are about numbers
TAGS = tuple(tag for other in ("fr", "de", "es", "zh", "iso") for tag in (f"en->{other}", f"{other}->en"))
DATE_TAGS = ("en->iso", "iso->en")

MILLION = 1_000_000
FIRST_DAY, LAST_DAY = datetime.date(1900, 1, 1).toordinal(), datetime.date(2099, 12, 31).toordinal()
# the formats of an English date: (format, locale) as babel names them
_DATE_FORMATS = [(form, locale) for locale in ("en_US", "en_GB") for form in ("full", "long", "medium")]

_CHINESE_DIGITS = "零一二三四五六七八九"
_CHINESE_UNITS = ((1000, "千"), (100, "百"), (10, "十"))


def is_held_out(value):
    """Return whether a number, or the ordinal of a date, is held out of training, in all languages: about one in fifty.

    Zero is never held out: no other number contains its word.
    """
    return value > 0 and value * 2654435761 % 2**32 < 2**32 // 50  # Knuth's multiplicative hash: no pattern in words


def number_in_words(value, language):
    """Return a number below 1,000,000 in words: "twenty-one", "vingt et un", "einundzwanzig", "veintiuno", "二十一"."""
    if language == "zh":
        return number_in_chinese(value)
    words = _num2words()(value, lang=language)
    if language == "es":  # num2words does not shorten uno before mil
        words = words.replace("veintiuno mil", "veintiún mil").replace("uno mil", "un mil")
    return words


def as_typed(text, rng):
    """Leave out commas, hyphens or "and" at random, as people do.

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
    """Return a number from 0 to 999999 in Chinese numerals; inner zeros are written once, a leading 一十 as 十.

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
    """Draw numbers below a million, held out or not; unless `uniform`, half have 1 to 6 digits with equal chances."""

    def draw():
        low, high = 0, MILLION
        if not uniform and rng.random() < 0.5:
            digits = rng.randint(1, 6)
            low, high = 10 ** (digits - 1) if digits > 1 else 0, 10**digits
        return rng.randrange(low, high)

    return _draw(count, draw, held_out)


def draw_days(count, rng, held_out):
    """Draw ordinals of days from 1900 to 2099, held out or not."""
    return _draw(count, lambda: rng.randint(FIRST_DAY, LAST_DAY), held_out)


def _draw(count, draw, held_out):
    found = []
    while len(found) < count:
        value = draw()
        if is_held_out(value) == held_out:
            found.append(value)
    return found


def make_corpus(tags, count, seed, held_out, uniform=False):
    """Return {tag: [(source, target)]}: `count` texts for each direction, of the same values in all languages.

    There are half as many dates, because there are fewer days. `as_typed` changes only texts for training.
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
    """Return (source, target) of a date: English sources have any format, English targets only one."""
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
