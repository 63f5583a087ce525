"""Which language a text is in, and whether it is language at all: naive Bayes over letter trigrams (Table 10).

The paper used fastText, a linear model over hashed character n-grams trained on millions of lines. A page is long, so far
less will do: here each language is known by the handful of sentences below, and a page's score in a language is its mean
log-probability per trigram. The difference between languages names the language; the level itself says whether the page
is written in any of them, which is what the gibberish filter uses. A prior favours the first language. Digits and
punctuation do not vote: a page made of sums is "unknown", as code was in the paper's table.
"""
from __future__ import annotations

import functools

import numpy as np

UNKNOWN = "unknown"
THRESHOLD = 0.5             # of the posterior, as in Table 10
PRIOR = 0.9                 # of the first language: most of an English crawl is English, and lists of names look like any
TEMPER = 0.15               # neighbouring trigrams overlap, so they count for less than independent evidence
SMOOTHING = 0.05
CLASSES = 64                # space, 26 letters, and the bytes of other letters folded into 37 classes

SEED_TEXT = {
    "en": """
        The weather was cold in the morning, but the children went out to play with their friends. What is the name of
        this river, and where does it come from? She told him that nobody had ever seen such a beautiful thing before.
        He could not find his keys, so he waited for an hour in front of the house. They have been working together on
        that question since last year. You should always wash your hands when you are going to cook something. I think
        we would like to know how much water there is. There were many people at the market, and each of them wanted to
        buy bread. Please write a short letter about your holiday. Which of these is the largest animal? The answer is
        easy to remember. Once upon a time there lived an old man who was afraid of the dark. It was built by hand about
        one hundred years ago and is still used every day. First take the box, then open it slowly with a knife. The
        people who live there speak another language and sell fish, wool and fruit. Light fell through the window and
        the night was quiet again. Give me three words that mean the same as happy. Repeat after me. He said good
        evening and thanked her for the gift. Nothing is better than a warm soup after a long walk in the rain.""",
    "fr": """
        Le temps était froid ce matin, mais les enfants sont sortis pour jouer avec leurs amis. Quel est le nom de cette
        rivière et d'où vient-elle ? Elle lui a dit que personne n'avait jamais vu une chose aussi belle. Il ne trouvait
        pas ses clefs, alors il a attendu une heure devant la maison. Nous travaillons ensemble sur cette question depuis
        l'année dernière. Vous devez toujours vous laver les mains quand vous faites la cuisine. Je crois que nous
        aimerions savoir combien d'eau il y a. Il y avait beaucoup de gens au marché, et chacun voulait acheter du pain.
        Écrivez une courte lettre sur vos vacances, s'il vous plaît. Lequel de ces animaux est le plus grand ? La réponse
        est facile à retenir. Il était une fois un vieil homme qui avait peur de la nuit. Elle fut bâtie à la main il y a
        cent ans et sert encore tous les jours. Prends d'abord la boîte, puis ouvre-la lentement avec un couteau. Les gens
        qui vivent là parlent une autre langue et vendent du poisson, de la laine et des fruits. Le chien dort sous la
        table pendant que ma sœur chante dans le jardin. Rien ne vaut une soupe chaude après une longue marche.""",
    "de": """
        Am Morgen war das Wetter kalt, aber die Kinder gingen hinaus, um mit ihren Freunden zu spielen. Wie heißt dieser
        Fluss, und woher kommt er? Sie sagte ihm, dass niemand je etwas so Schönes gesehen habe. Er konnte seine Schlüssel
        nicht finden, also wartete er eine Stunde vor dem Haus. Wir arbeiten seit dem letzten Jahr zusammen an dieser
        Frage. Du solltest dir immer die Hände waschen, wenn du etwas kochen willst. Ich glaube, wir möchten wissen, wie
        viel Wasser es gibt. Auf dem Markt waren viele Leute, und jeder von ihnen wollte Brot kaufen. Bitte schreiben Sie
        einen kurzen Brief über Ihren Urlaub. Welches von diesen Tieren ist das größte? Die Antwort kann man sich leicht
        merken. Es war einmal ein alter Mann, der hatte Angst vor der Dunkelheit. Es wurde vor hundert Jahren von Hand
        gebaut und wird noch jeden Tag benutzt. Nimm zuerst die Kiste, dann öffne sie langsam mit einem Messer. Die
        Menschen, die dort leben, sprechen eine andere Sprache und verkaufen Fisch, Wolle und Obst. Der Hund schläft unter
        dem Tisch, während meine Schwester im Garten singt. Nichts ist besser als eine warme Suppe nach langer Arbeit.""",
}

_CLASS = np.zeros(256, dtype=np.int64)
_CLASS[ord("a"):ord("z") + 1] = np.arange(1, 27)
_CLASS[128:] = 27 + np.arange(128) % (CLASSES - 27)


@functools.lru_cache(maxsize=2)
def trigrams(text: str) -> np.ndarray:
    """Codes (int64) of the letter trigrams of `text`; whatever is not a letter is a space, and spaces are single.

    The last texts' codes are remembered, since two filters ask for the same page's: do not write into them.
    """
    raw = np.frombuffer(f" {text.lower()} ".encode("utf-8", "replace"), dtype=np.uint8)
    c = _CLASS[raw]
    c = c[np.concatenate(([True], (c[1:] != 0) | (c[:-1] != 0)))]
    return (c[:-2] * CLASSES + c[1:-1]) * CLASSES + c[2:]


class LanguageModel:
    """Letter-trigram probabilities of several languages, from a little text of each."""

    def __init__(self, seed_text: dict[str, str] = SEED_TEXT) -> None:
        if not seed_text:
            raise ValueError("a language model needs seed text of at least one language, got none")
        self.languages = tuple(seed_text)
        counts = np.stack([np.bincount(trigrams(t), minlength=CLASSES**3) for t in seed_text.values()], axis=1)
        smooth = counts + SMOOTHING
        self._logp = np.log(smooth / smooth.sum(axis=0)).astype(np.float32)      # (trigram, language)
        others = max(1, len(self.languages) - 1)
        self._log_prior = np.log([PRIOR] + [(1 - PRIOR) / others] * (len(self.languages) - 1))

    def scores(self, text: str) -> np.ndarray:
        """Mean log-probability (nats) of a trigram of `text` in each language; −inf where the text has no letters."""
        codes = trigrams(text)
        codes = codes[codes > 0]
        if codes.size < 3:
            return np.full(len(self.languages), -np.inf)
        return self._logp[codes].mean(axis=0)

    def posterior(self, text: str) -> np.ndarray:
        """Probability of each language; the prior where the text has no letters."""
        codes = trigrams(text)
        total = TEMPER * self._logp[codes[codes > 0]].sum(axis=0) + self._log_prior
        weight = np.exp(total - total.max())
        return weight / weight.sum()

    def identify(self, text: str) -> tuple[str, float]:
        """The language and its probability; ("unknown", p) where half of the text is no letters or p is below one half."""
        p = self.posterior(text)
        best = int(p.argmax())
        letters = sum(map(str.isalpha, text))
        unknown = p[best] < THRESHOLD or 2 * letters <= len(text) - text.count(" ")
        return (UNKNOWN if unknown else self.languages[best]), float(p[best])

    def fluency(self, text: str) -> float:
        """Mean log-probability of a trigram in the language that fits best: about −10 for prose, −12 for noise."""
        return float(self.scores(text).max())


@functools.cache
def default_model() -> LanguageModel:
    """The model of the seed text above, built once."""
    return LanguageModel()
