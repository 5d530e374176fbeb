"""Generated prompts: one function per skill, each writing a token sequence with slots, answers and a skill name.

Nothing here comes from a dataset. Several questions follow one list (``Plan.questions``), so that a short sequence
trains many answers. Every answer is known by construction: a copy of a listed title, or the item whose vector has the
largest inner product with a query vector (:mod:`recbole_llm.builtin.worlds`); in a share of the long lists
(``Plan.soft``) one that is drawn, the likelier the larger its inner product.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from recbole_llm.builtin import phrases
from recbole_llm.builtin.sequences import Batch, Sequence, Titles
from recbole_llm.builtin.worlds import DIMENSIONS, World


@dataclass(frozen=True)
class Plan:
    """How hard the prompts are. Ranges are inclusive."""

    items: tuple[int, int] = (4, 8)  # listed items, or candidates
    history: tuple[int, int] = (2, 4)
    questions: int = 4
    bare: float = 0.3  # share of histories shown as slots without titles
    title_tokens: int = 4
    noise: float = 0.3
    margin: float = 1.0
    sharpness: tuple[float, float] = (6.0, 6.0)  # of users' tastes: low makes histories diverse, as real ones are
    popular: tuple[float, float] = (0.0, 0.0)  # of worlds: how much of a vector says how popular its item is
    alike: float = 0.0  # share of candidate lists with groups of titles that begin with the same piece
    soft: float = 0.0  # share of long candidate lists whose answer is drawn, the likelier the better
    weights: dict[str, float] = field(default_factory=lambda: {"repeat": 1.0, "lookup": 1.0})

    def only(self, skill: str) -> Plan:
        """The same difficulty, one skill."""
        return replace(self, weights={skill: 1.0})


class Generator:
    """Draws batches. Everything follows from ``seed`` and the calls made; ``state`` saves and restores it."""

    def __init__(self, tokenizer, seed: int, titles_seed: int = 11, world_items: int = 400,
                 titles: int = 20_000):
        self.rng, self.pool = np.random.default_rng(seed), Titles(tokenizer, titles_seed, titles)
        self.bos, self.eos, self.pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
        self.yes, self.no = self.pool.text(" Yes"), self.pool.text(" No")
        self.world_items = world_items

    @property
    def state(self) -> dict:
        return self.rng.bit_generator.state

    @state.setter
    def state(self, state: dict) -> None:
        self.rng.bit_generator.state = state

    def batch(self, plan: Plan, tokens: int) -> Batch:
        """A batch of about ``tokens`` tokens of one skill drawn by ``plan.weights``, one list length, one world."""
        names = list(plan.weights)
        weights = np.array([plan.weights[name] for name in names])
        skill = names[int(self.rng.choice(len(names), p=weights / weights.sum()))]
        world = World(self.rng, int(self.rng.choice(DIMENSIONS)), self.world_items, plan.popular)
        self.rows = [world.vectors]
        self.n_rows = world.n_items
        n_items = int(self.rng.integers(plan.items[0], plan.items[1] + 1))
        n_history = int(self.rng.integers(plan.history[0], plan.history[1] + 1))
        write, sequences, total = getattr(self, f"_{skill}"), [], 0
        while total < 3 * tokens:  # three times too many; neighbours in length waste little on padding
            sequence = Sequence(self.pool, self.bos, self.eos, self.pad)
            write(sequence, world, plan, n_items, n_history)
            sequences.append(sequence)
            total += len(sequence.ids)
        sequences.sort(key=lambda sequence: len(sequence.ids))
        count = max(1, round(len(sequences) / 3))
        first = int(self.rng.integers(len(sequences) - count + 1))
        sequences = sequences[first : first + count]
        return self._pack(sequences, len(sequences[-1].ids), np.concatenate(self.rows))

    def _pack(self, sequences: list[Sequence], longest: int, vectors: np.ndarray) -> Batch:
        shape = (len(sequences), longest)
        ids, slots, answers = np.full(shape, self.pad), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        widest = max(len(tokens) for sequence in sequences for tokens in sequence.rivals.values())
        rivals, skills = np.full((*shape, widest), -1), []
        for row, sequence in enumerate(sequences):
            n = len(sequence.ids)
            ids[row, :n], slots[row, :n] = sequence.ids, sequence.slots
            marks = np.array(sequence.answers)
            answers[row, :n] = np.where(marks > 0, marks + len(skills), 0)
            skills += sequence.skills
            for place, tokens in sequence.rivals.items():
                rivals[row, place, : len(tokens)] = tokens
        return Batch(ids, slots, answers, rivals, np.array(skills), vectors.astype(np.float32))

    def _vector(self, vector: np.ndarray) -> int:
        """Append a vector to the batch's rows; returns its row."""
        self.rows.append(vector[None].astype(np.float32))
        self.n_rows += 1
        return self.n_rows - 1

    def _sharpness(self, plan: Plan) -> float:
        low, high = plan.sharpness
        return float(self.rng.uniform(low, high)) if low < high else high

    def _user_vector(self, query: np.ndarray) -> int:
        return self._vector(query / np.sqrt((query**2).mean() + 1e-9))

    def _repeat(self, out: Sequence, world: World, plan: Plan, n: int, h: int) -> None:
        listed = self.pool.draw(self.rng, n, plan.title_tokens)
        rows = self.rng.integers(world.n_items, size=n).tolist() if self.rng.random() < 0.5 else None
        out.text(phrases.pick(self.rng, phrases.LISTS))
        out.items(listed, rows)
        out.text(phrases.pick(self.rng, phrases.REPEATS))
        for title in listed:
            out.answer(title, "repeat", listed)

    def _number(self, out: Sequence, world: World, plan: Plan, n: int, h: int) -> None:
        n = min(n, 9)
        listed = self.pool.draw(self.rng, n, plan.title_tokens)
        rows = self.rng.integers(world.n_items, size=n) if self.rng.random() < 0.5 else None
        out.text(phrases.pick(self.rng, phrases.LISTS))
        for i, title in enumerate(listed):
            out.text(f" {i + 1}")
            out.items([title], None if rows is None else [int(rows[i])])
            out.text(",")
        for i in self.rng.permutation(n)[: plan.questions]:
            out.text(f"{phrases.pick(self.rng, phrases.NUMBERS)} {i + 1}:")
            out.answer(listed[i], "number", listed)

    def _lookup(self, out: Sequence, world: World, plan: Plan, n: int, h: int) -> None:
        """One slot is shown, then lists of candidates: whose vector is it?"""
        item = int(self.rng.integers(world.n_items))
        self._choose(out, world, plan, n, "lookup", world.vectors[item], [item], exact=item)

    def _noisy(self, out: Sequence, world: World, plan: Plan, n: int, h: int) -> None:
        """The same with a vector that is near to an item's."""
        query = world.vectors[int(self.rng.integers(world.n_items))]
        query = query + plan.noise * self.rng.normal(size=world.d) * np.sqrt((query**2).mean())
        self._choose(out, world, plan, n, "noisy", query, [self._user_vector(query)])

    def _user(self, out: Sequence, world: World, plan: Plan, n: int, h: int) -> None:
        """A user's vector: the candidate with the largest inner product."""
        items = world.histories(1, max(h, 3), self._sharpness(plan))
        query = world.summary(items)[0]
        query = query + 0.3 * self.rng.normal(size=world.d) * np.sqrt((query**2).mean())
        self._choose(out, world, plan, n, "user", query, [self._user_vector(query)])

    def _history(self, out: Sequence, world: World, plan: Plan, n: int, h: int) -> None:
        """A history of items: the candidate nearest to their (recency weighted) mean."""
        items = world.histories(1, h, self._sharpness(plan))
        self._choose(out, world, plan, n, "history", world.summary(items)[0], items[0].tolist())

    def _user_real(self, out: Sequence, world: World, plan: Plan, n: int, h: int) -> None:
        """A user's vector beside a history of titles, with slots or without: the user's vector decides."""
        items, later = (world.histories(1, length, self._sharpness(plan)) for length in (h, max(h, 3)))
        share = self.rng.uniform(0.0, 0.8)  # of the taste that the history does not show
        query = (1 - share) * world.summary(items)[0] + share * world.summary(later)[0]
        query = query + 0.3 * self.rng.normal(size=world.d) * np.sqrt((query**2).mean())
        user = self._user_vector(query)
        self._choose(out, world, plan, n, "user_real", query, items[0].tolist(), user=user)

    def _choose(self, out: Sequence, world: World, plan: Plan, n: int, skill: str, query: np.ndarray, shown: list[int],
                user: int | None = None, exact: int | None = None) -> None:
        """History, then up to ``plan.questions`` candidate lists, each with its answer.

        The right answers get better from list to list, so that the best of all candidates so far is always the answer
        of the latest list: no list has to be forgotten.
        """
        before, ask, end = phrases.frame(self.rng)
        if user is not None:
            if self.rng.random() < 0.5:  # a user token stands first, unless a template says otherwise
                out.text(phrases.pick(self.rng, phrases.USER_LEADS))
            out.slot(user)
        out.text(before)
        bare = skill in ("lookup", "noisy", "user") or (user is None and self.rng.random() < plan.bare)
        titled = [[] for _ in shown] if bare else self.pool.draw(self.rng, len(shown), plan.title_tokens)
        out.items(titled, None if user is not None and self.rng.random() < 0.3 else shown)
        for candidates, best in self._lists(world, plan, n, query, shown, exact):
            listed = self.pool.draw(self.rng, n, plan.title_tokens)
            for _ in range(int(self.rng.random() < plan.alike) * int(self.rng.integers(1, 3))):
                self.pool.alike(self.rng, listed, plan.title_tokens, best)
            out.text(ask)
            out.items(listed, candidates.tolist())
            out.text(end)
            out.answer(listed[best], skill, listed)

    def _lists(self, world: World, plan: Plan, n: int, query: np.ndarray, shown: list[int],
               exact: int | None) -> list[tuple[np.ndarray, int]]:
        """Candidate lists in ascending order of their best score, a step of half the margin apart."""
        lists = [world.candidates(query, shown, n, plan.margin, plan.soft) for _ in range(plan.questions if n < 12 else 1)]
        scores = world.vectors @ query
        lists.sort(key=lambda found: scores[found[0][found[1]]])
        if exact is not None:
            lists[-1][0][lists[-1][1]] = exact
        kept, gap = [lists.pop()], 0.5 * plan.margin * scores.std()
        while lists:
            found, last = lists.pop(), kept[-1]
            if scores[last[0][last[1]]] - scores[found[0][found[1]]] >= gap:
                kept.append(found)
        return kept[::-1]

    def _topic(self, out: Sequence, world: World, plan: Plan, n: int, h: int, skill: str) -> None:
        """The history's titles share a word with one candidate; slots are absent, agree, or (conflict) decide."""
        word = self.pool.words[int(self.rng.integers(len(self.pool.words)))]
        items = world.histories(1, h, self._sharpness(plan))[0]
        share = 1.0 if skill == "words" and plan.margin >= 1 else 0.6
        plain = self.pool.draw(self.rng, h + n, plan.title_tokens)
        history = [self.pool.sharing(self.rng, word, plan.title_tokens) if self.rng.random() < share else plain[i]
                   for i in range(h)]
        history[-1] = self.pool.sharing(self.rng, word, plan.title_tokens)
        candidates, best = world.choices(world.summary(items[None])[0], items.tolist(), n, plan.margin)
        marked = best if skill != "conflict" else (best + 1 + int(self.rng.integers(n - 1))) % n
        listed = plain[h:]
        listed[marked] = self.pool.sharing(self.rng, word, plan.title_tokens)
        before, ask, end = phrases.frame(self.rng)
        out.text(before)
        out.items(history, None if skill == "words" else items.tolist())
        out.text(ask)
        out.items(listed, None if skill == "words" else candidates.tolist())
        out.text(end)
        out.answer(listed[best], skill, listed)

    def _words(self, out: Sequence, world: World, plan: Plan, n: int, h: int) -> None:
        self._topic(out, world, plan, n, h, "words")

    def _both(self, out: Sequence, world: World, plan: Plan, n: int, h: int) -> None:
        self._topic(out, world, plan, n, h, "both")

    def _conflict(self, out: Sequence, world: World, plan: Plan, n: int, h: int) -> None:
        self._topic(out, world, plan, n, h, "conflict")

    def _yes_no(self, out: Sequence, world: World, plan: Plan, n: int, h: int) -> None:
        """Is this item near to the history's vectors? One question: a later one would find this candidate still there.

        Where likes stand behind the items, those disliked are any items, and the others are asked about.
        """
        items = world.histories(1, h, self._sharpness(plan))[0]
        liked, notes = np.ones(h, bool), None
        before, _, _ = phrases.frame(self.rng)
        if self.rng.random() < 0.3:
            before = phrases.pick(self.rng, phrases.YES_NO_LEADS)
            liked[:-1] = self.rng.random(h - 1) < 0.7
            items[~liked] = self.rng.integers(world.n_items, size=(~liked).sum())
            kinds = phrases.NOTES[int(self.rng.integers(len(phrases.NOTES)))]
            notes = [phrases.pick(self.rng, kinds[int(like)]) for like in liked]
        apart = phrases.APART if self.rng.random() < 0.7 else ("", "")
        out.text(before)
        out.items(self.pool.draw(self.rng, h, plan.title_tokens), items.tolist(), apart, notes)
        query = world.summary(items[None, liked])[0]
        candidates, best = world.choices(query, items.tolist(), 2, max(plan.margin, 0.5))
        like = self.rng.random() < 0.5
        out.text(phrases.pick(self.rng, phrases.YES_NO))
        out.items(self.pool.draw(self.rng, 1, plan.title_tokens), [int(candidates[best if like else 1 - best])], apart)
        out.text(phrases.pick(self.rng, phrases.YES_NO_ENDS))
        out.answer(self.yes if like else self.no, "yes_no", [self.yes, self.no])
