"""What is wrong with web pages: planters that damage an honest page and say exactly what they did.

Each planter takes a text and a random source and returns the damaged text with what was planted. None of them ever writes
a digit next to another beyond what it reports, so no sum that is held out can come into being here. The planters know
nothing of the filters in text/; a few of their forms (a number in words, an insult spelled with spaces) are meant to slip
through, as on the real web.
"""
from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from random import Random

from llama2_lib.world.languages import word_lists
from llama2_lib.world.tables import TABLES, read_text

BREAK = re.compile(r"(?<=[.!?])(?:\s)(?=\S)|\n")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def insert(text: str, sentence: str, rng: Random, own_line: bool = False, keep: Sequence[str] = ()) -> str:
    """`text` with `sentence` before, after, or at a break between two sentences or (only those, if `own_line`) lines.

    Breaks inside the pieces of `keep`, which were planted earlier, are left alone.
    """
    kept = [(at, at + len(piece)) for piece in keep for at in [text.index(piece)]]
    breaks = [m for m in BREAK.finditer(text) if (not own_line or m.group() == "\n") and not any(
        start < m.end() and m.start() < end for start, end in kept)]
    place = rng.randrange(len(breaks) + 2)
    gap = "\n" if own_line else " "
    if place == 0:
        return f"{sentence}{gap}{text}"
    if place == 1:
        return f"{text}{gap}{sentence}"
    cut = breaks[place - 2]
    return f"{text[:cut.start()]}{gap}{sentence}{cut.group()}{text[cut.end():]}"


# What filters may take for a fault though nothing is wrong with it: without such sentences their precision would say little.
DECOYS = (
    "It was printed on ##.0#.19## in Oldbridge.", "Opening hours are 9.00-17.30, on Fridays 8.00-12.15.",
    "See pages 1##-2## of it.",     "The museum keeps it under number 0###-###.", "Parcel 77-##-#, two of three.",
    "The record stood from 19##-20##.", "In the play, Peter Bell lives at ## Station Road.",
    "She looked at the map and saw a dot.", "The bus leaves Mill Street at #.15.", "We use two eggs for our cookies.",
    "Share this bread with the birds, said the old woman.", "It costs 1# 500, or 1#.500 as others write.",
    "The quagmire behind the mill is deep.", "Home, says the cat, is where the soup is.",
)


def plant_decoy(text: str, rng: Random) -> str:
    """`text` with an honest sentence that looks like a fault."""
    return insert(text, digits(rng.choice(DECOYS), rng), rng)


# ----------------------------------------------------------------------------------------------------------- personal data

MAIL_FORMS = ("{f}.{l}@{h}", "{f}{n}@{h}", "{f}_{l}@{h}", "{f0}{l}@{h}", "{l}+list@{h}", "{F}.{L}@{h}", "{f}-{l}{n}@{h}")
HIDDEN_MAIL_FORMS = ("{f}.{l} (at) {h}", "{f} [at] {h1} [dot] {h2}", "{f}.{l} at {h1} dot {h2}", "{f}{n}(at){h}")
PHONE_FORMS = ("555-01##", "(0##) 555 ####", "+## ### 555 ####", "0###-######", "555.01#.####", "0### ### ###",
               "+## (0)## #######", "(0####) ### ##", "1-###-555-01##", "0## / 555 ## ##")
UNCUED = ("+## ### 555 ####", "(0##) 555 ####", "0###-######")
ADDRESS_FORMS = ("{t}{F} {L}, {s} {k}, {o}", "{F} {L} lives at {s} {k} in {o}", "{F} {L}\n{s} {k}\n{z} {o}",
                 "{t}{F} {L}, {s} {k}", "{F} {L} ({s} {k}, {z} {o})", "{t}{L}, {F}: {s} {k}, {o}",
                 "{F} {I}. {L}, {s} {k}, {o} {z}")
TITLES = ("", "", "Mrs ", "Mr. ", "Dr ", "Ms. ")
MAIL_SAYS = ("Write to {} for more.", "Mail: {}", "Questions? {}", "You can reach her under {} at any time.", "{}",
             "The old address {} no longer works.", "Send your answer to {} before Friday.", "Contact {} about the keys.")
PHONE_SAYS = ("Call {} after six.", "Phone: {}", "Tel. {}", "My mobile number is {}, ask for the owner.", "Please ring {}.",
              "The telephone number of the house is {}.", "Fax {}", "You can call him on {} any day.")
UNCUED_SAYS = ("Anna: {}", "Ask at {}.", "{}")
ADDRESS_SAYS = ("Found: a bag that belongs to {}.", "{}.", "Please return it to {}.", "It was sold to {}.", "Owner: {}.")
NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@functools.cache
def people() -> dict[str, list[str]]:
    """Names, streets and hosts of the invented private people."""
    sections = ("first names", "surnames", "streets", "street kinds", "towns", "hosts")
    return word_lists(TABLES / "private_people.txt", sections)


def plain(name: str) -> str:
    """A name as it stands in a mail address."""
    return re.sub(r"[^a-z]", "", name.lower().translate(str.maketrans("ëöü", "eou")))


def mail(rng: Random) -> str:
    """An invented mail address, one in five written so that a machine does not see it at once."""
    who = people()
    first, last, host = (rng.choice(who[k]) for k in ("first names", "surnames", "hosts"))
    front, _, end = host.rpartition(".")
    form = rng.choice(HIDDEN_MAIL_FORMS if rng.random() < 0.2 else MAIL_FORMS)
    return form.format(f=plain(first), l=plain(last), F=plain(first).title(), L=plain(last).title(), f0=plain(first)[0],
                       n=rng.randint(1, 99), h=host, h1=front.replace(".", "-"), h2=end)


def digits(form: str, rng: Random) -> str:
    """`form` with every # replaced by a digit."""
    return "".join(str(rng.randrange(10)) if c == "#" else c for c in form)


def address(rng: Random) -> str:
    """An invented person's name with a home address."""
    who = people()
    first, last, street = (rng.choice(who[k]) for k in ("first names", "surnames", "streets"))
    kind, town = rng.choice(who["street kinds"]), rng.choice(who["towns"])
    number = f"{rng.randint(1, 140)}{rng.choice(('', '', 'a', 'b', 'c'))} {street}"
    return rng.choice(ADDRESS_FORMS).format(
        t=rng.choice(TITLES), F=first, L=last, I=rng.choice("ABCDEFGHJK"), s=number, k=kind, o=town,
        z=digits(rng.choice(("####", "#####")), rng))


def plant_pii(text: str, rng: Random) -> tuple[str, tuple[str, ...]]:
    """`text` with one to three pieces of personal data, and the pieces."""
    planted: list[str] = []
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3))):
        kind = rng.random()
        if kind < 0.35:
            item, says = mail(rng), MAIL_SAYS
        elif kind < 0.66:
            item, says = digits(rng.choice(PHONE_FORMS), rng), PHONE_SAYS
        elif kind < 0.70:
            item, says = digits(rng.choice(UNCUED), rng), UNCUED_SAYS
        elif kind < 0.71:
            item, says = " ".join(rng.choice(NUMBER_WORDS) for _ in range(7)), PHONE_SAYS
        else:
            item, says = address(rng), ADDRESS_SAYS
        text = insert(text, rng.choice(says).format(item), rng, keep=planted)
        planted.append(item)
    return text, tuple(planted)


# ------------------------------------------------------------------------------------------------------------- boilerplate

SITES = ("Lantern Weekly", "The River Post", "Fox and Fern", "Old Harbour News", "Millham Online", "Seven Hills")
TOPICS = ("Home", "News", "Animals", "Travel", "Stories", "Poems", "Recipes", "Games", "About us", "Contact", "Shop",
          "Forum", "Help", "Log in", "Archive", "Weather")
FURNITURE = (
    "We use cookies to make this site better. Accept all cookies?", "This site uses cookies. Manage your preferences.",
    "By reading on you accept our cookies and our terms of use.", "Cookie settings | Accept | Decline",
    "Click here to subscribe to our newsletter!", "Click here for more.", "Tap below to open the picture.", "Read more »",
    "Sign in to leave a comment.", "Log in or register", "Subscribe now and get two weeks for free.",
    "Share this page with your friends", "Follow us for news every day", "Skip to main content", "Back to top",
    "Advertisement", "Sponsored by {site}", "© {year} {site}. All rights reserved.", "Copyright {year} {site}",
    "{n} comments", "Page {n} of {m}", "Last updated: {n} May {year}", "Posted by admin in {topic}",
    "Related articles: {topic}, {topic2}", "Please turn on JavaScript to see this page.",
    "Your browser is too old for this site.", "Loading...", "You are here: {topic} > {topic2}",
    "Privacy policy · Terms · Contact", "Print this article", "Previous page | Next page", "Download our app today",
    "Tags: {topic}, {topic2}", "Show more results",
)
MENU_GAPS = (" | ", " · ", " > ", " / ", " • ", " – ")


def furniture(rng: Random) -> str:
    """One line of site furniture: a banner, a footer, a menu."""
    if rng.random() < 0.25:
        return rng.choice(MENU_GAPS).join(rng.sample(TOPICS, rng.randint(3, 6)))
    topic, topic2 = rng.sample(TOPICS, 2)
    return rng.choice(FURNITURE).format(site=rng.choice(SITES), year=rng.randint(1998, 2023), n=rng.randint(1, 9),
                                        m=rng.randint(10, 40), topic=topic, topic2=topic2)


def plant_boilerplate(text: str, rng: Random, keep: Sequence[str] = ()) -> tuple[str, tuple[str, ...]]:
    """`text` with one to four lines of site furniture above, below or between its lines, and the lines."""
    planted = tuple(furniture(rng) for _ in range(rng.randint(1, 4)))
    for line in planted:
        text = insert(text, line, rng, own_line=True, keep=keep)
    return text, planted


# ------------------------------------------------------------------------------------------------------- insults and noise

INSULT_SAYS = ("What a {} you are!", "Only a {} would believe that.", "Go away, you {}.", "You {}, you know nothing.",
               "Everybody there is a {}.", "I never met such a {}.", "Shut up, {}!")


@functools.cache
def insults() -> tuple[str, ...]:
    """The made-up insults of data/world/insults.txt."""
    lines = read_text(TABLES / "insults.txt").splitlines()
    return tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))


def disguise(word: str, rng: Random) -> str:
    """An insult as people write it: in capitals, with an ending, with a letter starred out; rarely spelled with spaces."""
    kind, i = rng.random(), rng.randrange(1, len(word))
    if kind < 0.60:
        return word
    if kind < 0.72:
        return word.upper()
    if kind < 0.82:
        return word + "s"
    if kind < 0.90:
        return word[:i] + "*" + word[i + 1:]
    if kind < 0.98:
        return word[:i] + word[i] * rng.randint(2, 4) + word[i + 1:]
    return " ".join(word)


def plant_insults(text: str, rng: Random, keep: Sequence[str] = ()) -> tuple[str, tuple[str, ...]]:
    """`text` with one or two made-up insults, and the words as written."""
    planted = tuple(disguise(rng.choice(insults()), rng) for _ in range(rng.randint(1, 2)))
    for word in planted:
        text = insert(text, rng.choice(INSULT_SAYS).format(word), rng, keep=keep)
    return text, planted


def gibberish(text: str, rng: Random) -> str:
    """A page of noise of about the length of `text`: keys mashed, symbols, or its words with their letters shuffled.

    One page in forty is shuffled tidily, capitals and stops left out: hard to tell from a language nobody knows.
    """
    (kind,) = rng.choices(("mash", "symbols", "shuffle", "tidy"), (13, 13, 13, 1))
    words = [word for word in text.split() if any(map(str.isalpha, word)) and not any(map(str.isdigit, word))]
    words += ["noise"] * (12 - len(words))          # a page of sums has hardly a word to shuffle
    if kind == "tidy":
        words, kind = [plain(word) or "noise" for word in words], "shuffle"
    letters = LETTERS if kind == "mash" else LETTERS + "#%&§$~^|<>¿¬"
    return " ".join("".join(rng.sample(word, len(word)) if kind == "shuffle" else rng.choices(letters, k=rng.randint(2, 9)))
                    for word in words)


# --------------------------------------------------------------------------------------------------------- near duplicates

def edit(text: str, rng: Random) -> str:
    """`text` slightly changed: a few words replaced by other words of it, or a sentence dropped or said twice over.

    Only words made of letters change, and none beside a number, so no sum changes.
    """
    pieces = re.split(r"(\s+)", text)
    places = [i for i in range(0, len(pieces), 2) if pieces[i].isalpha() and not any(
        c.isdigit() for c in "".join(pieces[max(0, i - 2):i + 3]))]
    if len(places) < 4:
        return insert(text, rng.choice(ADDED), rng)
    for i in rng.sample(places, max(1, len(places) // rng.choice((15, 20, 30)))):
        pieces[i] = pieces[rng.choice(places)]
    edited = "".join(pieces)
    if rng.random() < 0.4 or edited == text:
        edited = insert(edited, rng.choice(ADDED), rng)
    return edited


ADDED = ("I found this on another page.", "This is well known by now.", "Tell your friends about it.",
         "That is all for today.", "Thank you for reading so far.", "My neighbour says the same.",
         "Somebody should print this.", "It is worth a second look.")
