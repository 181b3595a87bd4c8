"""The songs of the toy band as notes: chords, bass lines, drum patterns, accompaniment and a sung melody.

One seeded generator per song makes all draws. Times are in seconds, pitches are MIDI numbers.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .singer import BAND, Syllable, Voice

SPECIAL = ("unseen soundfont", "silent drums", "no vocals", "clipped mixture")  # the last songs of a test set
LONG_PHRASE = 5  # syllables that make a phrase a melody of its own


@dataclass(frozen=True)
class Part:
    """One instrument: notes (start, end, pitch, velocity), and how FluidSynth plays and places them."""

    stem: str  # bass, drums, guitar, piano or rest
    font: str
    program: int
    notes: list[tuple[float, float, int, int]]
    level: float  # dB of full scale while it plays, before the song is scaled as a whole
    pan: float = 0.0
    reverb: float = 0.1
    percussion: bool = False  # on General MIDI's drum channel


@dataclass(frozen=True)
class Song:
    """A composed song: its facts for the manifest, its parts and its singers."""

    name: str
    seed: int
    key: str
    mode: str
    tempo: int
    groove: str
    special: str | None  # one of SPECIAL
    parts: list[Part]
    voices: list[tuple[Voice, list[Syllable], float, float]]  # with level in dB and pan
    phrases: frozenset[tuple]  # sung phrases as (onset in eighths, semitones above the first note)
    rings: bool  # ends on a last chord, not in the middle


@dataclass(frozen=True)
class _Bar:
    start: float
    chords: list[tuple[int, tuple[int, ...]]]  # (root, tones) as pitch classes, in equal shares of the bar
    after: int  # root of the bar that follows
    section: str  # intro, verse, chorus, break or end
    index: int  # within the section
    closes: bool  # the last of its section
    playing: frozenset[str]  # drums, bass, vocals and families


def compose_band(seed: int, seconds: float, train: int, test: int) -> dict[str, list[Song]]:
    """All songs of a band as notes: {"train": [...], "test": [...]}.

    Training tempi are even and test tempi odd, so that no pair of tempo and key is shared; seeds differ by parity, too.
    A test song never sings a training phrase of `LONG_PHRASE` syllables or more: it is drawn again.
    """
    songs = [compose(seed, index, False, seconds) for index in range(train)]
    known = frozenset().union(*(song.phrases for song in songs))
    special = [None] * max(0, test - len(SPECIAL)) + list(SPECIAL)
    tests = [compose(seed, index, True, seconds, special[index], known) for index in range(test)]
    return {"train": songs, "test": tests}


def compose(
    seed: int, index: int, test: bool, seconds: float, special: str | None = None, taken: frozenset[tuple] = frozenset()
) -> Song:
    """Song `index` of the training or test set, without the sung phrases in `taken`."""
    own = (seed << 20) + 2 * index + test
    rng = np.random.default_rng(own)
    order = index + 5 * test  # spreads keys, tempi and voices evenly
    key, mode = (7 * order + seed) % 12, ("major", "minor")[(order // 3 + order // 12) % 2]
    tempo = 70 + 2 * int(45 * ((0.618034 * order + 0.37 * seed + 0.31 * test) % 1)) + test
    groove = _draw(rng, [name for name, (slow, fast, _) in BAND.grooves.items() if slow <= tempo <= fast])
    others = [str(name) for name in rng.permutation(list(BAND.players)[2:])]
    if index % 2 == 0:  # half of the songs can be split further, into guitar, piano and the rest
        families = ["guitar", "piano", *others[: int(rng.random() < 0.6)]]
    else:
        families = [_draw(rng, ("guitar", "piano")), *others[: int(rng.integers(1, 3))]]
    shift = key if mode == "major" else key - 9
    bars = list(_form(rng, shift, mode, tempo, seconds, families))
    font = BAND.unseen_font if special == "unseen soundfont" else _draw(rng, BAND.fonts)
    parts = [_drummer(rng, bars, tempo, groove, font), _bassist(rng, bars, tempo, font)]
    for family, side in zip(families, rng.permutation([-0.5, 0.5, 0.15]), strict=False):
        parts.append(_accompanist(rng, bars, tempo, family, font, side * rng.uniform(0.5, 1.2)))
    voice = Voice(*BAND.voices[(order + order // 4) % 4])
    habits: dict[str, Any] = {"tract": voice.tract * rng.uniform(0.96, 1.05), "breath": rng.uniform(0.01, 0.03)}
    habits |= {"vibrato": rng.uniform(0.2, 0.5), "rate": rng.uniform(5.0, 6.3)}
    voices, phrases = _singers(rng, bars, tempo, shift, replace(voice, **habits), taken)
    adjectives, nouns = BAND.titles
    title = f"{adjectives[order % 10]} {nouns[(3 * order + order // 10 + 5 * test) % 10]}"
    name = f"Toyband{' Test' * test} {index + 1:02d} - {title}"
    parts = parts[1:] if special == "silent drums" else parts
    voices = [] if special == "no vocals" else voices
    ends = bars[-1].section == "end"
    return Song(name, own, BAND.keys[key], mode, tempo, groove, special, parts, voices, phrases, ends)


def _draw(rng, options):
    """One item of a sequence, at random."""
    return options[int(rng.integers(len(options)))]


def _form(rng, shift, mode, tempo, seconds, families) -> Iterator[_Bar]:
    """The bars of a song: intro, verse, chorus, break, verse, ... and a last chord that rings, if time allows."""
    length = 240.0 / tempo
    count = int(np.ceil(seconds / length))
    last = int(seconds / length - 0.4) if seconds / length > 6 else count
    plan = [("intro", 2)] * (seconds >= 12 and rng.random() < 0.7) + [("verse", 4 if last < 14 else 8), ("chorus", 4)]
    plan += [("break", 2)] * (rng.random() < 0.6) + [("verse", 4), ("chorus", 8)] * (1 + count // 12)
    verse, chorus = (_draw(rng, BAND.progressions[mode]).split("|") for _ in range(2))
    everyone = frozenset(["drums", "bass", "vocals", *families])
    harmony, labels = [], []
    for section, bars in plan:
        resting = {
            "intro": {"vocals", _draw(rng, ("drums", "bass", families[0]))},
            "verse": {families[-1]} if rng.random() < 0.6 else set(),
            "break": {"vocals", *[name for name in ("drums", "bass", families[0]) if rng.random() < 0.5]},
        }.get(section, set())
        harmony += [(chorus if section == "chorus" else verse)[index % 4] for index in range(bars)]
        labels += [(section, index, index == bars - 1, everyone - resting) for index in range(bars)]
    harmony[last], labels[last] = "C" if mode == "major" else "Am", ("end", 0, False, everyone)
    chords = [[_chord(name, shift) for name in bar.split()] for bar in harmony[: count + 1]]
    for bar in range(min(count, last + 1)):
        yield _Bar(bar * length, chords[bar], chords[bar + 1][0][0], *labels[bar])


def _chord(name, shift):
    letter, flat, quality = re.fullmatch(r"([A-G])(b?)(.*)", name).groups()
    root = (BAND.scale[letter] - len(flat) + shift) % 12
    return root, tuple((root + step) % 12 for step in BAND.chords[quality])


def _near(pitch_class, centre):
    """The pitch of a class in the octave around `centre`."""
    return centre - 6 + (pitch_class - centre + 6) % 12


def _steps(line, bar):
    """(step, steps to the next hit, letter, root, tones) of each hit in a line of 16 steps over the bar's chords."""
    hits = [step for step, mark in enumerate(line) if mark != "."]
    for step, until in zip(hits, [*hits[1:], 16], strict=True):
        yield step, until - step, line[step], *bar.chords[step * len(bar.chords) // 16]


def _humanise(rng, notes, loose=0.006):
    """Small errors of timing (standard deviation `loose` s) and of force."""
    errors = np.clip(rng.standard_normal((len(notes), 2)), -2, 2) * (loose, 6)
    for (start, end, pitch, force), (late, harder) in zip(notes, errors.tolist(), strict=True):
        start = max(0.0, start + late)
        yield start, max(end, start + 0.05), pitch, int(np.clip(force + harder, 20, 127))


def _drummer(rng, bars, tempo, groove, font):
    sampled = _draw(rng, BAND.drum_fonts) if font != BAND.unseen_font else None
    kit, rides, notes = _draw(rng, BAND.kits.get(groove, BAND.kits["any"])), rng.random() < 0.5, []
    for bar in (bar for bar in bars if "drums" in bar.playing):
        hits = list(_hits("kick X crash X" if bar.section == "end" else BAND.grooves[groove][2]))
        if bar.section != "end" and (bar.closes or (bar.index % 4 == 3 and rng.random() < 0.5)):
            fill = _draw(rng, BAND.fills)
            share = len(fill.split()[1]) / 16  # of the bar
            hits = [hit for hit in hits if hit[1] < 1 - share]
            hits += [(drum, 1 - share + at * share, mark) for drum, at, mark in _hits(fill)]
        elif bar.index == 0 and bar.section in ("verse", "chorus", "break"):
            hits += _hits("crash X")
        loud = {"chorus": 1.0, "end": 1.0, "verse": 0.9}.get(bar.section, 0.85)
        for drum, at, mark in hits:
            if mark != "g" or rng.random() < 0.7:
                drum = "ride" if drum == "hat" and rides and bar.section == "chorus" else drum
                start, rings = bar.start + at * 240.0 / tempo, 2.5 if drum in ("crash", "ride") else 0.3
                notes.append((start, start + rings, BAND.drums[drum], BAND.force[mark] * loud))
    level = -21 + rng.uniform(-1, 1.5)
    notes = list(_humanise(rng, notes, 0.004))
    return Part("drums", sampled or font, 0 if sampled else kit, notes, level, percussion=not sampled)


def _hits(pattern):
    """(drum, place in 0..1, mark) of each hit in "drum line drum line ..."."""
    words = pattern.split()
    for drum, line in zip(words[::2], words[1::2], strict=True):
        yield from ((drum, step / len(line), mark) for step, mark in enumerate(line) if mark != ".")


def _bassist(rng, bars, tempo, font):
    verse, chorus = _draw(rng, BAND.bass_lines), _draw(rng, BAND.bass_lines)
    program, sixteenth, notes = _draw(rng, BAND.basses), 15.0 / tempo, []
    for bar in (bar for bar in bars if "bass" in bar.playing):
        line = {"end": "R" + 15 * ".", "chorus": chorus}.get(bar.section, verse)
        for step, span, mark, root, tones in _steps(line, bar):
            low = _near(root, 34)
            after = _near(bar.after, low)
            third, fifth = ((tone - root) % 12 for tone in tones[1:3])
            towards = after + (-1 if after > low else 2 if after == low else 1)
            pitch = {"r": low, "f": low + fifth, "o": low + 12, "t": low + third, "p": towards}[mark.lower()]
            start = bar.start + step * sixteenth
            notes.append((start, start + 0.92 * span * sixteenth, pitch, 104 if mark.isupper() else 90))
    return Part("bass", font, program, list(_humanise(rng, notes)), -20 + rng.uniform(-1, 1), reverb=0.05)


def _accompanist(rng, bars, tempo, family, font, pan):
    centre, level, *players = BAND.players[family]
    program, manners = _draw(rng, [(program, manners) for programs, manners in players for program in programs])
    verse, chorus = ((manner, _draw(rng, BAND.manners[manner])) for manner in (_draw(rng, manners) for _ in range(2)))
    climb, sixteenth, notes = _draw(rng, BAND.climbs), 15.0 / tempo, []
    for bar in (bar for bar in bars if family in bar.playing):
        manner, line = {"end": ("pad", "x" + 15 * "."), "chorus": chorus}.get(bar.section, verse)
        for count, (step, span, mark, root, tones) in enumerate(_steps(line, bar)):
            chord = sorted(_near(tone, centre) for tone in tones)
            if family in ("guitar", "piano") or manner == "arpeggio":
                chord = sorted({*chord, _near(root, centre - 12), chord[0] + 12})
            start, length = bar.start + step * sixteenth, span * sixteenth
            held = {"arpeggio": max(2 * length, 0.4), "stab": min(0.18, length), "pad": length}
            if manner == "arpeggio":
                chord = [chord[climb[count % len(climb)] % len(chord)]]
            elif manner == "line":
                chord = [_near(_draw(rng, tones), chord[-1] if rng.random() < 0.5 else centre + 3)]
            elif manner == "power":
                chord = [_near(root, 45) + up for up in (0, 7, 12)]
            elif mark == "U":
                chord = chord[:-5:-1]  # an upstroke catches the high strings only
            end = start + held.get(manner, 0.9 * length)
            delay, force = {"strum": 0.014, "block": 0.002}.get(manner, 0.0), 100 if mark in "XD" else 84
            for place, pitch in enumerate(chord):
                notes.append((start + place * delay, end, pitch, force - 2 * place))
    stem = family if family in ("guitar", "piano") else "rest"
    level, reverb = level + rng.uniform(-1.5, 1.5), rng.uniform(0.2, 0.5)
    return Part(stem, font, program, list(_humanise(rng, notes)), level, float(pan), reverb)


def _singers(rng, bars, tempo, shift, voice, taken):
    """The voices, and the set of long phrases in comparable form.

    A lead and, in some songs, a second voice under it in the choruses. Phrases span two bars. The same place in the
    form repeats tune and words, except when they are drawn again at random.
    """
    eighth, lead, phrases, memory, pitch = 30.0 / tempo, [], set(), {}, voice.low + 8
    for number, first in enumerate(bars):
        if "vocals" not in first.playing or first.index % 2:
            continue
        pair = [bar for bar in bars[number : number + 2] if bar.section == first.section]
        place = (first.section, first.index % 4)
        if rng.random() < 0.3:
            memory.pop(place, None)
        while True:
            if place not in memory:
                memory[place] = _draw(rng, BAND.openings) + _draw(rng, BAND.closings), int(rng.integers(1 << 30))
            rhythm, seed = memory[place]
            rhythm = "x-------" if first.section == "end" else rhythm[: 8 * len(pair)]
            tune = np.random.default_rng(seed)
            phrase = _phrase(tune, rhythm, pair, voice.low, pitch, shift)
            shape = tuple((at, sung - phrase[0][2]) for at, _, sung in phrase)
            if len(shape) < LONG_PHRASE or shape not in taken:
                break
            del memory[place]
        phrases |= {shape} if len(shape) >= LONG_PHRASE else set()
        pitch = phrase[-1][2]
        for count, (at, held, sung) in enumerate(phrase):
            words = (_draw(tune, list(BAND.consonants)), _draw(tune, list(BAND.vowels)))
            words = ("", "") if count and tune.random() < 0.12 else words  # a melisma: the last vowel goes on
            start = max(0.12, first.start + at * eighth + 0.01 * rng.standard_normal())
            end = max(start + 0.05, first.start + (at + held) * eighth - 0.02)
            lead.append(Syllable(start, end, sung, *words, count == 0, (0.85, 1.0)[at % 4 == 0] * rng.uniform(0.85, 1)))
    voices = [(voice, lead, -19.0 + rng.uniform(-1, 1), 0.0)]
    spans = [(bar.start - 0.1, bar.start + 8 * eighth - 0.1) for bar in bars if bar.section in ("chorus", "end")]
    echo = [note for note in lead if any(begin <= note.start < end for begin, end in spans)]
    if echo and rng.random() < 0.35:
        scale = [(tone + shift) % 12 for tone in BAND.scale.values()]
        below = [next(p for p in range(note.pitch - 3, 0, -1) if p % 12 in scale) for note in echo]
        echo = [replace(note, pitch=p, start=note.start + 0.015) for note, p in zip(echo, below, strict=True)]
        double = replace(voice, tract=1.04 * voice.tract, rate=0.93 * voice.rate)
        voices.append((double, echo, -27.0, _draw(rng, (-0.5, 0.5))))
    return voices, frozenset(phrases)


def _phrase(tune, rhythm, bars, low, pitch, shift):
    """One phrase as (onset, length, pitch), in eighths: chord tones on strong beats and at the end, small steps."""
    scale, notes = {(tone + shift) % 12 for tone in BAND.scale.values()}, []
    centre = low + (11 if bars[0].section == "chorus" else 7)
    for at in (step for step, mark in enumerate(rhythm) if mark == "x"):
        rest, chords = rhythm[at + 1 :], bars[at // 8].chords
        chord = set(chords[at % 8 * len(chords) // 8][1])
        clash = {(tone + side) % 12 for tone in chord for side in (-1, 1)}
        tones = chord if at % 4 == 0 or "x" not in rest else chord | (scale - clash)
        near = np.array([p for p in range(low, low + 17) if p % 12 in tones])
        weight = np.exp(-np.abs(near - pitch) / 2.5 - ((near - centre) / 6.0) ** 2 - 0.7 * (near == pitch))
        weight[np.abs(near - pitch) > 7] *= 0.01  # a leap beyond a fifth only if nothing else is left
        pitch = int(tune.choice(near, p=weight / weight.sum()))
        notes.append((at, 1 + len(rest) - len(rest.lstrip("-")), pitch))
    return notes
