"""French and German in small: pages of simple sentences whose articles, adjectives and word order agree (Table 10).

Word lists are data/world/french.txt and german.txt. A page is a few sentences about somebody doing something with some
thing, with questions and answers now and then. Left out: plurals, tenses, subordinate clauses, meaning.
"""
from __future__ import annotations

import functools
from pathlib import Path
from random import Random

from llama2_lib.world.tables import TABLES, TableError, read_text

SECTIONS = ("nouns", "people", "adjectives", "verbs", "places", "times", "asides")
VOWELS = "aeiouhéèêâàôîœ"
Words = dict[str, list[str]]


def word_lists(path: Path, sections: tuple[str, ...]) -> Words:
    """The lines of a table by [section]; TableError names a missing section or a line outside of any."""
    lists: Words = {}
    section = None
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if line.startswith("[") and line.endswith("]"):
            section = lists.setdefault(line[1:-1], [])
        elif line.strip() and not line.startswith("#"):
            if section is None:
                raise TableError(f"{path}, line {number}: {line!r} stands before the first [section]")
            section.append(line.strip())
    missing = [s for s in sections if not lists.get(s)]
    if missing:
        raise TableError(f"{path}: section {', '.join(missing)} is missing or empty")
    return lists


@functools.cache
def words(language: str) -> Words:
    """The word lists of "french" or "german" by section."""
    return word_lists(TABLES / f"{language}.txt", SECTIONS)


def _upper(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


# ------------------------------------------------------------------------------------------------------------------ French

def _french_noun(rng: Random, lists: Words, definite: bool) -> tuple[str, str]:
    """(a noun with article and often an adjective, its gender)"""
    gender, noun = rng.choice(lists["nouns"]).split(" ", 1)
    if definite:
        article = "l'" if noun[0] in VOWELS else ("le " if gender == "m" else "la ")
    else:
        article = "un " if gender == "m" else "une "
    adjective = " " + rng.choice(lists["adjectives"]).split()[gender == "f"] if rng.random() < 0.6 else ""
    return article + noun + adjective, gender


def french_sentence(rng: Random) -> str:
    """One French sentence, or a question and its answer."""
    lists = words("french")
    gender, who = rng.choice(lists["people"]).split(" ", 1)
    thing, _ = _french_noun(rng, lists, definite=rng.random() < 0.5)
    place, pronoun = rng.choice(lists["places"]), "il" if gender == "m" else "elle"
    kind = rng.random()
    if kind < 0.35:
        return f"{rng.choice(lists['times'])}, {who} {rng.choice(lists['verbs'])} {thing} {place}."
    if kind < 0.6:
        return _upper(f"{who} {rng.choice(lists['verbs'])} {thing}, puis {pronoun} {rng.choice(lists['verbs'])} "
                      f"{_french_noun(rng, lists, definite=True)[0]}.")
    if kind < 0.75:
        there, there_gender = _french_noun(rng, lists, definite=True)
        return f"Où est {there} ? {'Il' if there_gender == 'm' else 'Elle'} est {place}."
    if kind < 0.88:
        return f"Qui {rng.choice(lists['verbs'])} {thing} ? C'est {who}."
    return rng.choice(lists["asides"])


# ------------------------------------------------------------------------------------------------------------------ German

ARTICLES = {("m", "nom"): "der", ("f", "nom"): "die", ("n", "nom"): "das",
            ("m", "acc"): "den", ("f", "acc"): "die", ("n", "acc"): "das"}


def _german_noun(rng: Random, lists: Words, case: str) -> tuple[str, str]:
    """(a noun with definite article and often an adjective in that case, its gender)"""
    gender, noun = rng.choice(lists["nouns"]).split(" ", 1)
    ending = "en" if (gender, case) == ("m", "acc") else "e"
    adjective = f" {rng.choice(lists['adjectives'])}{ending}" if rng.random() < 0.6 else ""
    return f"{ARTICLES[gender, case]}{adjective} {noun}", gender


def german_sentence(rng: Random) -> str:
    """One German sentence, or a question and its answer."""
    lists = words("german")
    gender, who = rng.choice(lists["people"]).split(" ", 1)
    thing, _ = _german_noun(rng, lists, "acc")
    place, pronoun = rng.choice(lists["places"]), {"m": "er", "f": "sie", "n": "es"}[gender]
    kind = rng.random()
    if kind < 0.35:
        return f"{rng.choice(lists['times'])} {rng.choice(lists['verbs'])} {who} {thing} {place}."
    if kind < 0.6:
        return _upper(f"{who} {rng.choice(lists['verbs'])} {thing}, dann {rng.choice(lists['verbs'])} {pronoun} "
                      f"{_german_noun(rng, lists, 'acc')[0]}.")
    if kind < 0.75:
        there, there_gender = _german_noun(rng, lists, "nom")
        return f"Wo ist {there}? {({'m': 'Er', 'f': 'Sie', 'n': 'Es'})[there_gender]} ist {place}."
    if kind < 0.88:
        return f"Wer {rng.choice(lists['verbs'])} {thing}? Das ist {who}."
    return rng.choice(lists["asides"])


SENTENCES = {"fr": french_sentence, "de": german_sentence}


def page(rng: Random, language: str) -> str:
    """A page of four to eight sentences in "fr" or "de"."""
    return " ".join(SENTENCES[language](rng) for _ in range(rng.randint(4, 8)))
