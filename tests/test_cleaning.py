"""Cleaning: each filter against the planted truth of the default corpus, against slow oracles, and on hand-made cases."""
import functools
import json
import random
from collections import Counter
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama2_lib.config import MixtureConfig, as_dict, preset
from llama2_lib.stages.corpus import new_cleaner
from llama2_lib.text import cleaning, dedup, language, mixture, pii, quality
from llama2_lib.text.reading import read_jsonl
from llama2_lib.world import faults, reading, web
from llama2_lib.world.facts import load

TOY = preset("toy")
MODEL = language.LanguageModel()


@dataclass
class Plain:
    """A page of real data: no truth."""
    text: str
    source: str = "encyclopedia"


@pytest.fixture(scope="module")
def run():
    cleaner = new_cleaner(0)
    documents = list(cleaner.clean(web.pages(load(), TOY.world, 0)))
    return cleaner, documents


# ------------------------------------------------------------------------------------------------- against the planted truth

@pytest.mark.parametrize("name", cleaning.FILTERS)
def test_precision_and_recall_on_the_default_corpus(run, name):
    score = run[0].scores[name]
    assert score.hits + score.misses >= 50, f"too few planted to judge {name}: {score}"
    assert score.precision >= 0.95 and score.recall >= 0.95, (name, score.as_dict())


def test_what_is_left(run):
    cleaner, documents = run
    counts = cleaner.counts
    dropped = sum(counts[c] for c in ("gibberish", "exact_duplicates", "near_duplicates", "empty"))
    assert counts["documents"] == len(documents) == TOY.world.documents - dropped
    assert {d.source for d in documents} == set(as_dict(MixtureConfig()))
    assert all((d.language in ("fr", "de")) == (d.source == "languages") for d in documents)
    assert sum(d.toxic for d in documents) == counts["toxic"] > 50, "insults are reported, not dropped (section 4.1)"


def test_without_a_filter_its_faults_stay():
    pages = list(web.pages(load(), replace(TOY.world, documents=800), 0))
    kept = {f: list(new_cleaner(0, without=(f,)).clean(pages)) for f in ("gibberish", "pii", "boilerplate")}
    everything = list(new_cleaner(0).clean(pages))
    assert len(kept["gibberish"]) > len(everything) + 10
    mail = next(piece for p in pages for piece in p.pii if "@" in piece and not p.duplicate_of)
    assert any(mail in d.text for d in kept["pii"]) and not any(mail in d.text for d in everything)
    assert sum(len(d.text) for d in kept["boilerplate"]) > sum(len(d.text) for d in everything)
    with pytest.raises(ValueError, match="no filter is called gibberisch"):
        new_cleaner(0, without=("gibberisch",))


def test_pages_without_truth_are_cleaned_all_the_same():
    cleaner = cleaning.Cleaner()
    pages = [Plain("The cat sat on the mat and looked at the old dog. Mail: a.b@post.example"),
             Plain("Click here for more."),
             Plain("The cat sat  on the mat and looked at the old dog! Mail: x.y@post.example"),
             Plain("Le petit chat dort sous la table et la souris mange du fromage.")]
    documents = list(cleaner.clean(pages))
    assert [(d.source, d.language) for d in documents] == [("encyclopedia", "en"), ("languages", "fr")]
    assert documents[0].text.endswith("Mail: [mail]")
    assert cleaner.counts["empty"] == cleaner.counts["exact_duplicates"] == 1
    assert all(score == cleaning.Score() for score in cleaner.scores.values())


@pytest.mark.parametrize("pages", [[], [Plain("Click here for more.")], [Plain("")]])
def test_nothing_left_is_an_error(pages):
    with pytest.raises(ValueError, match=f"kept none of {len(pages)} pages"):
        list(cleaning.Cleaner().clean(pages))


@settings(max_examples=100, deadline=None)
@given(text=st.text())
def test_no_text_breaks_a_filter(text):
    cleaner = cleaning.Cleaner(toxic_words=["grobnik"], benchmark=["one two three four five six seven eight nine ten"])
    for document in cleaner.clean([Plain("The cat sat on the mat and ate the fish."), Plain(text)]):
        assert document.text.strip()


def test_score_counts():
    score = cleaning.Score()
    for found, true in [(1, 1), (1, 1), (1, 1), (1, 0), (0, 1), (0, 1), (0, 0)]:
        score.count(bool(found), bool(true))
    assert score.as_dict() == {"hits": 3, "false_alarms": 1, "misses": 2, "precision": 0.75, "recall": 0.6}
    spans = [pii.Span(0, 5, "mail"), pii.Span(8, 10, "phone")]
    score = cleaning.Score()
    cleaning.score_spans(score, "a@b.c xx 12 a@b.c", spans, ("a@b.c", "a@b.c"))
    assert (score.hits, score.misses, score.false_alarms) == (1, 1, 1), "a piece planted twice must be found twice"


# ------------------------------------------------------------------------------------------------------------ personal data

@pytest.mark.parametrize("text, cleaned", [
    ("Write to anna.falk+list@river-school.example, please.", "Write to [mail], please."),
    ("anna (at) post (dot) example or anna at post dot example", "[mail] or [mail]"),
    ("Call +49 030 555 1234 or (020) 555 1234 or 555-0142.", "Call [phone] or [phone] or [phone]."),
    ("Dr Zoë O'Hara, 14b Old Market Lane, Sund was here.", "[address] was here."),
    ("Falk, Edda: 3 Rose St., Norvik", "[address]"),
    ("Edda Falk\n3 Rose Street\n1234 Norvik\nis gone", "[address]\nis gone"),
])
def test_personal_data_goes(text, cleaned):
    assert pii.remove_pii(text) == cleaned


@pytest.mark.parametrize("text", [
    "37 + 25 = 62, 3 + 2 + 1 = 6", "Born 1987-03-12, died 12.04.2001.", "From 1914-1918 and 2001-2014.",
    "Open 9.00-17.30.", "10 20 30 40 50 60 70", "She looked at the dot on the map.", "It costs 1 200 500 coins.",
    "Rose Street is long.", "Call the dog 3 times.", "The year 1969 and the year 1903.", "a@b", "12345678",
])
def test_numbers_and_names_that_identify_nobody_stay(text):
    assert pii.remove_pii(text) == text


# ---------------------------------------------------------------------------------------------------------------- duplicates

def test_exact_duplicates_ignore_case_spaces_and_punctuation():
    exact = dedup.ExactDuplicates()
    assert not exact.seen("The cat sat, it slept.") and not exact.seen("The cat sat.")
    assert exact.seen("  the CAT sat:\n it slept")
    assert not exact.seen("+ = !") and not exact.seen("- = ?"), "texts without words are compared as they stand"


@functools.cache
def runs(text, length):
    words = dedup.WORD.findall(text.lower())
    return {tuple(words[i:i + length]) for i in range(max(1, len(words) - length + 1))}


def slow_jaccard(a, b, length):
    a, b = runs(a, length), runs(b, length)
    return len(a & b) / len(a | b)


WORDS = [f"w{i}" for i in range(40)]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=30), st.lists(st.sampled_from(WORDS), min_size=1, max_size=30),
       st.integers(1, 4))
def test_jaccard_of_hashes_is_jaccard_of_words(a, b, length):
    a, b = " ".join(a), " ".join(b)
    assert dedup.jaccard(dedup.shingles(a, length), dedup.shingles(b, length)) == slow_jaccard(a, b, length)


def test_near_duplicates_agree_with_comparing_every_pair():
    rng = random.Random(0)
    texts = []
    for _ in range(200):
        words = rng.choices(WORDS * 20 + [f"v{i}" for i in range(2000)], k=50)
        texts.append(" ".join(words))
        if rng.random() < 0.5:
            for i in rng.sample(range(50), rng.randint(1, 12)):
                words[i] = "changed"
            texts.append(" ".join(words))
    near, kept, agree = dedup.NearDuplicates(threshold=0.5), [], 0
    for text in texts:
        slow = next((i for i, other in enumerate(kept) if slow_jaccard(text, other, 3) >= 0.5), None)
        found = near.match(text)
        agree += found == slow
        if found is None:
            kept.append(text)
    assert agree >= 0.99 * len(texts) and len(kept) < len(texts) - 30
    with pytest.raises(ValueError, match="threshold"):
        dedup.NearDuplicates(threshold=0)


# ----------------------------------------------------------------------------------------------------- language and quality

@pytest.mark.parametrize("text, name", [
    ("The shepherd lost his hat near the lake and could not find it.", "en"),
    ("Der Hirte verlor seinen Hut am See und fand ihn nicht wieder.", "de"),
    ("Le berger a perdu son chapeau près du lac et ne le trouve plus.", "fr"),
    ("12 + 7 = 19.\n30 + 4 = 34.", "unknown"), ("", "unknown"), ("???", "unknown"),
])
def test_languages(text, name):
    assert MODEL.identify(text)[0] == name


def test_naive_bayes_by_hand():
    model = language.LanguageModel({"a": "ab", "b": "ba"})
    logp = {}
    for name, grams in {"a": [" ab", "ab "], "b": [" ba", "ba "]}.items():
        total = 2 + language.SMOOTHING * language.CLASSES**3
        logp[name] = {g: (grams.count(g) + language.SMOOTHING) / total for g in (" ab", "ab ", " ba", "ba ")}
    ratio = logp["a"][" ab"] * logp["a"]["ab "] / (logp["b"][" ab"] * logp["b"]["ab "])
    odds = ratio ** language.TEMPER * language.PRIOR / (1 - language.PRIOR)
    assert model.posterior("AB!")[0] == pytest.approx(odds / (1 + odds), rel=1e-5)
    with pytest.raises(ValueError, match="seed text"):
        language.LanguageModel({})


def test_noise_has_no_fluency():
    assert MODEL.fluency("a plain sentence about a house") > quality.FLUENCY_FLOOR > MODEL.fluency("qxk zzpt wkjh qqow vnmx")
    assert MODEL.fluency("12 + 3") == float("-inf") and not quality.is_gibberish("12 + 3 = 15.", MODEL)
    assert quality.is_gibberish("#a$ ~x& %% ¬b¬ @@ <q>", MODEL)
    assert quality.is_gibberish("eTh frarem.o slod ihS rde toba", MODEL)
    assert not quality.is_gibberish("Learn by heart: Tunisia, Sofia, \"grass\", Arabic.", MODEL)


@pytest.mark.parametrize("line", ["We use cookies. Accept all?", "Home | News | Shop", "© 1999 Fox. All rights reserved.",
                                  "Read more »", "Page 2 of 17", "Log in or register", "Your browser is too old."])
def test_furniture(line):
    assert quality.remove_boilerplate(f"A cat.\n{line}\nA dog.") == ("A cat.\nA dog.", [line])


@pytest.mark.parametrize("line", [
    "My aunt bakes cookies with the children on Sunday.", "7 / 2 / 1 = 3.5", "Next to the house stood a tree.",
    "Home is where the cat is.", "Page 2 of the book was lost.", "Tell me more about it.", "User: Register the dog."])
def test_honest_lines_stay(line):
    assert quality.remove_boilerplate(line) == (line, [])


def test_insults_in_disguise():
    toxic = quality.ToxicWords(faults.insults())
    assert toxic.find("You GROBNIK, you gro*nik and groobniks!") == ["GROBNIK", "gro*nik", "groobniks"]
    assert not toxic.find("The quagmire is wiggly, the plonk is dry.")
    with pytest.raises(ValueError, match="empty"):
        quality.ToxicWords([])


def test_benchmark_text_is_recognised_by_ten_words_in_a_row():
    items = [i.text for i in reading.benchmark(0)]
    benchmark = cleaning.Benchmark(items)
    words = items[0].split()
    assert benchmark.in_page("before it " + " ".join(words[3:14]) + " and after")
    assert not benchmark.in_page("before it " + " ".join(words[3:11]) + " and after")
    assert not cleaning.Benchmark([]).in_page(items[0])


# ------------------------------------------------------------------------------------------------------------------- mixture

@given(weights=st.dictionaries(st.sampled_from("abc"), st.floats(0, 3), min_size=3), seed=st.integers(0, 99))
def test_mixture_counts(weights, seed):
    sources = list("aaaaaaabbbbbcc")
    if not sum(round(weights[s] % 1 * sources.count(s)) + int(weights[s]) for s in "abc"):
        with pytest.raises(ValueError, match="no document"):
            mixture.mixture_order(sources, weights, seed)
        return
    order = mixture.mixture_order(sources, weights, seed)
    assert order == mixture.mixture_order(sources, weights, seed)
    for source in "abc":
        times = Counter(i for i in order if sources[i] == source)
        count, whole = sources.count(source), int(weights[source])
        assert sum(times.values()) == whole * count + round((weights[source] - whole) * count)
        assert all(n in (whole, whole + 1) for n in times.values()), "a fraction is drawn without replacement"


@pytest.mark.parametrize("weights", [{}, {"b": -1.0}, {"b": float("nan")}, {"b": float("inf")}])
def test_mixture_refuses_a_weight(weights):
    with pytest.raises(ValueError, match="weight of 'b'"):
        mixture.mixture_order(["a", "b"], {"a": 1.0} | weights, 0)


def test_documents_are_upsampled_and_shuffled(tmp_path):
    rows = [{"text": f"é{i}\n", "source": "stories" if i % 2 else "encyclopedia"} for i in range(40)]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (tmp_path / "corpus.jsonl").write_text("".join(lines), encoding="utf-8")
    config = MixtureConfig(encyclopedia=2.0, stories=0.5)
    texts = list(mixture.documents(tmp_path, config, 0))
    count = Counter(texts)
    assert len(texts) == 50 and all(count[r["text"]] == 2 for r in rows if r["source"] == "encyclopedia")
    assert texts == list(mixture.documents(tmp_path, config, 0)) != list(mixture.documents(tmp_path, config, 1))
    assert texts != sorted(texts)


# ------------------------------------------------------------------------------------------------------------- reading JSONL

GOOD = b'{"text": "one"}\n'


@pytest.mark.parametrize("data, place, hint", [
    (GOOD + b'{"text": "tw', "line 2", "cut"), (GOOD + b"nonsense\n" + GOOD, "line 2", "not a JSON object"),
    (GOOD + '{"text": "é"}\n'.encode("latin-1"), "line 2", "not UTF-8"),
    (b"\xef\xbb\xbf" + GOOD, "line 1", "byte-order mark"), (b'\xff\xfe{\x00"\x00\n', "line 1", "not UTF-8"),
    (GOOD + b'{"text": "a", "n": NaN}\n', "line 2", "NaN"), (b'{"text": "a", "n": Infinity}\n', "line 1", "Infinity"),
    (GOOD + b'\n{"words": "a"}\n', "line 3", "'text' is missing"), (GOOD + b'{"text": null}\n', "line 2", "missing or null"),
    (GOOD + b'{"text": "a \\ud800"}\n', "line 2", "surrogate"),
    (GOOD + b'{"text": "a", "b": ["\\udc00"]}\n', "line 2", "surrogate"),
    (GOOD + b'["text"]\n', "line 2", "got list"), (GOOD + b'{"text": 3}\n', "line 2", "should be str, got int"),
    (b"[" * 100_000 + b"\n", "line 1", "deep"),
])
def test_bad_lines_are_named(tmp_path, data, place, hint):
    path = tmp_path / "data.jsonl"
    path.write_bytes(data)
    with pytest.raises(ValueError) as error:
        list(read_jsonl(path, {"text": str}))
    assert f"data.jsonl, {place}:" in str(error.value) and hint in str(error.value)


@pytest.mark.parametrize("data", [b"", b"\n\n  \n"])
def test_a_file_without_records_is_an_error(tmp_path, data):
    (tmp_path / "data.jsonl").write_bytes(data)
    with pytest.raises(ValueError, match="holds no records"):
        list(read_jsonl(tmp_path / "data.jsonl", ["text"]))


@given(rows=st.lists(st.fixed_dictionaries({"text": st.text(), "n": st.integers() | st.lists(st.text())}), min_size=1),
       ascii_only=st.booleans())
def test_what_json_writes_is_read(tmp_path_factory, rows, ascii_only):
    path = tmp_path_factory.mktemp("jsonl") / "data.jsonl"
    path.write_bytes("\n".join(json.dumps(r, ensure_ascii=ascii_only) for r in rows).encode())
    assert list(read_jsonl(path, ["text", "n"])) == rows
