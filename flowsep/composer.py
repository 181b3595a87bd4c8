"""The songs of the toy band, as notes: chords, bass lines, drum patterns, accompaniment and a sung melody.

Everything is drawn from one seeded generator; times are in seconds, pitches are MIDI numbers.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from .singer import CONSONANTS, VOICES, VOWELS, Syllable, Voice

FLUID, MUSESCORE, TIM = "FluidR3_GM.sf2", "MuseScore_General_Lite.sf3", "TimGM6mb.sf2"
PEARL, ZEPPELIN = "Black_Pearl_4_LV2.sf2", "Red_Zeppelin_4_LV2.sf2"

# Four bars each, written in C major or A minor and transposed; a blank parts a bar in two.
PROGRESSIONS = {
    "major": (
        "C|G|Am|F",
        "C|Am|F|G",
        "F|G|Em|Am",
        "C|F|C|G7",
        "Am|F|C|G",
        "Dm7|G7|Cmaj7|Am7",
        "C|Em|F|Fm",
        "C G|Am Em|F C|F G",
        "F|C|G|G",
        "C|Bb|F|C",
        "Cmaj7|Fmaj7|Dm7|Gsus4 G",
        "C|E7|Am|F G",
    ),
    "minor": (
        "Am|F|C|G",
        "Am|G|F|E7",
        "Am|Dm|E7|Am",
        "Am|C|G|Dm",
        "Am F|C G|Am F|Dm E",
        "Am7|Dm7|Am7|Em7",
        "Dm|Am|Bb|E7",
        "F|G|Am|Am",
        "Am|Em|F|C G",
        "Am|Fmaj7|Dm7|E7",
    ),
}
QUALITIES = {
    "": (0, 4, 7),
    "m": (0, 3, 7),
    "7": (0, 4, 7, 10),
    "m7": (0, 3, 7, 10),
    "maj7": (0, 4, 7, 11),
    "sus4": (0, 5, 7),
}
SCALE = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
KEYS = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")

# Slowest and fastest tempo, then one bar as General MIDI key: steps (12 for triplets, 16 else); X accent, x plain, o soft, g ghost.
KICK, STICK, SNARE, CLAP, FLOOR, HAT, PEDAL, TOM, OPEN, HIGH, CRASH, RIDE = (
    36,
    37,
    38,
    39,
    41,
    42,
    44,
    45,
    46,
    47,
    49,
    51,
)
GROOVES = {
    "rock": (70, 160, {KICK: "X.......x.x.....", SNARE: "....X.......X...", HAT: "x.o.x.o.x.o.x.o."}),
    "push": (70, 130, {KICK: "X..x......x..x..", SNARE: "....X..g.g..X..g", HAT: "xoxoxoxoxoxoxoxo"}),
    "ballad": (70, 110, {KICK: "X.........x.....", STICK: "....x.......x...", HAT: "o...o...o...o..."}),
    "house": (
        100,
        140,
        {KICK: "X...X...X...X...", CLAP: "....x.......x...", OPEN: "..x...x...x...x.", HAT: "o..oo..oo..oo..o"},
    ),
    "halftime": (100, 160, {KICK: "X.....x...x.....", SNARE: "........X.....g.", HAT: "x.o.x.o.x.o.x.oo"}),
    "disco": (
        96,
        140,
        {KICK: "X...x...X...x...", SNARE: "....X.......X...", HAT: "x.oox.oox.oox.oo", OPEN: "..x...x...x...x."},
    ),
    "bossa": (80, 150, {KICK: "x.....xox.....xo", STICK: "x..x..x...x..x..", HAT: "o.ooo.ooo.ooo.oo"}),
    "samba": (
        80,
        120,
        {KICK: "x..xx..xx..xx..x", STICK: "x.x..x.xx.x..x.x", 54: "xooxxooxxooxxoox", PEDAL: "....x.......x..."},
    ),
    "motown": (90, 160, {KICK: "X..xx...X..xx...", SNARE: "X...X...X...X...", 54: "..x...x...x...x."}),
    "funk": (80, 122, {KICK: "X.x....x..x..x..", SNARE: "....X..g.g.gX..g", HAT: "x.xxx.xxx.x.x.xo"}),
    "shuffle": (80, 160, {KICK: "X....xx.....", SNARE: "...X.....X..", HAT: "x.ox.ox.ox.o"}),
    "swing": (90, 160, {KICK: "o..o..o..o..", RIDE: "x..x.ox..x.o", PEDAL: "...x.....x..", SNARE: ".....g..g..."}),
    "slow": (70, 100, {KICK: "X.....x.....", SNARE: "...X.....X.g", HAT: "xooxooxooxoo"}),
    "train": (80, 125, {KICK: "x...x...x...x...", SNARE: "ggXgggXgggXgggXg", PEDAL: "..x...x...x...x."}),
}
FILLS = (
    {SNARE: "........x.xxXxXx"},
    {SNARE: "........XX......", HIGH: "..........Xx....", TOM: "............XX..", FLOOR: "..............XX"},
    {SNARE: "............xxxX", KICK: "X.......x......."},
    {HIGH: "....x..x........", TOM: "........x..x....", FLOOR: "............x.xx", KICK: "X..............."},
    {SNARE: "....X.......XxXX", OPEN: "..............x."},
)
HITS = {"X": 116, "x": 98, "o": 72, "g": 42}

# Bass lines, 16 steps: r root, f fifth, o octave, t third, p a step towards the next root; capitals are accented.
BASS_LINES = (
    "R.r.r.r.r.r.r.r.",
    "R.....r.r.....f.",
    "R...f...r...f...",
    "R...t...f...p...",
    "r.o.r.o.r.o.r.o.",
    "R..r..o...r.f.p.",
    "R.......r...f.p.",
    "R...............",
    "R.rr..o...rrf.p.",
    "R..r..f...o.f.t.",
    "..r...r...r...rp",
)
BASSES = (33, 33, 34, 34, 35, 32, 36, 38, 39)

# Ways to accompany: (manner, one bar of 16 steps); in a strum D and U are the strokes, elsewhere letters are accents.
STRUMS = (("strum", "D...D.U..UDU..U."), ("strum", "D..D..D.D..UD.U."), ("strum", "D.DUD.DUD.DUD.DU"))
PICKED = (("arpeggio", "x.x.x.x.x.x.x.x."), ("arpeggio", "xxxxxxxxxxxxxxxx"), ("arpeggio", "x..x..x.x..x..x."))
BLOCKS = (
    ("block", "x...x...x...x..."),
    ("block", "X..x..x...x.x..."),
    ("block", "X.....x.x......."),
    ("block", "..x...x...x...x."),
)
STABS = (
    ("stab", "X..x............"),
    ("stab", "......X.....x.X."),
    ("stab", "..X..X....X....."),
    ("stab", "X...........X.X."),
)
CHUGS = (("power", "XxxxXxxxXxxxXxxx"), ("power", "X.x.x.x.X.x.x.x."), ("power", "X.....x.X.....x."))
PADS = (("pad", "x..............."), ("pad", "x.......x......."))
LINES = (("line", "x.......x...x..."), ("line", "........x.x.x..."), ("line", "x...........x.x."))
PLAYERS = {  # family -> programs and the manners that suit them
    "guitar": (
        ((24, 25, 27), STRUMS + PICKED),
        ((26,), BLOCKS + PICKED),
        ((28,), CHUGS[1:] + PICKED),
        ((29, 30), CHUGS),
    ),
    "piano": (((0, 0, 1, 2, 4, 5), BLOCKS + PICKED + PADS[1:]), ((0, 3), BLOCKS + STABS[:2])),
    "organ": (((16, 17, 18, 19, 21), PADS + BLOCKS),),
    "strings": (((48, 49, 50, 51), PADS + LINES[:1]), ((45,), PICKED)),
    "brass": (((61, 62), STABS), ((56, 60), LINES)),
    "wind": (((65, 66, 71, 73, 68, 22, 40), LINES),),
    "pad": (((88, 89, 90, 91, 94, 95), PADS),),
    "mallet": (((8, 11, 12, 46), PICKED + BLOCKS),),
    "synth": (((80, 81), PICKED + STABS),),
}
LEVELS = {
    "guitar": -23,
    "piano": -23,
    "organ": -25,
    "strings": -25,
    "brass": -24,
    "wind": -24,
    "pad": -26,
    "mallet": -24,
}

# Sung rhythms in eighths: x a syllable, - held, . rest. Odd phrases open, even ones close and leave time to breathe.
OPENINGS = ("x-x-x-x-", "x-xxx-x-", "..xxx-x-", "xxx-x---", "x--x--x-", "..x-x-xx", "x---x-x-", ".xxxx-x-", "xxxxx-x-")
CLOSINGS = ("x-x---..", "x-----..", "xxx---..", "x--x--..", "..xx--..", "xx-x---.", "x---....")

TITLES = (
    ("Paper", "Velvet", "Hollow", "Amber", "Northern", "Quiet", "Electric", "Borrowed", "Crooked", "Salt"),
    ("Harbour", "Lanterns", "Morning", "Satellite", "Orchard", "Avenue", "Thunder", "Letters", "Carousel", "River"),
)


@dataclass(frozen=True)
class Part:
    """One instrument's notes: (start s, end s, pitch, velocity), and how FluidSynth plays and places them."""

    stem: str  # bass, drums, guitar, piano or rest
    font: str
    program: int
    notes: list[tuple[float, float, int, int]] = field(repr=False)
    drums: bool = False  # on the percussion channel
    level: float = -22.0  # dB of full scale while it plays, before the song is scaled as a whole
    pan: float = 0.0
    reverb: float = 0.3


@dataclass(frozen=True)
class Song:
    """A composed song: what the manifest tells about it, its parts, and its singers."""

    name: str
    seed: int
    key: str
    mode: str
    tempo: int
    special: str | None
    groove: str
    parts: list[Part] = field(repr=False)
    voices: list[tuple[Voice, list[Syllable], float, float]] = field(repr=False)  # with level in dB and pan
    phrases: frozenset[tuple] = field(repr=False)  # each phrase as (onset in eighths, interval to its first note)
    ending: float = 0.05  # length of the fade at the end, s


@dataclass(frozen=True)
class _Bar:
    start: float
    chords: list[tuple[int, tuple[int, ...]]]  # (root pitch class, pitch classes) in equal shares of the bar
    after: int  # root pitch class of the bar that follows
    section: str  # intro, verse, chorus, break or end
    index: int  # within its section
    fill: bool  # the last bar before another section
    playing: frozenset[str]  # stems; the accompaniment counts by family


def compose_band(seed: int, seconds: float, train: int, test: int) -> dict[str, list[Song]]:
    """All songs of a band, without rendering: {"train": [...], "test": [...]}.

    Training tempi are even and test tempi odd, so no (tempo, key) pair is shared; seeds differ by parity as well.
    A phrase that training sings is not sung in the test songs: it is drawn again.
    """
    songs = {"train": [compose(seed, index, None, False, seconds) for index in range(train)], "test": []}
    known = frozenset().union(*(song.phrases for song in songs["train"]))
    for index in range(test):
        place = index - max(0, test - len(SPECIAL))  # the last songs, so that the first ones of many are plain
        special = SPECIAL[place] if place >= 0 else None
        songs["test"].append(compose(seed, index, special, True, seconds, known))
    return songs


LONG_PHRASE = 5  # syllables from which on a phrase counts as one of its own
SPECIAL = ("unseen soundfont", "silent drums", "no vocals", "clipped mixture")


def compose(
    seed: int, index: int, special: str | None, test: bool, seconds: float, taken: frozenset[tuple] = frozenset()
) -> Song:
    """Song `index` of the training or test set, singing none of the phrases in `taken`."""
    own = (seed << 20) + 2 * index + test
    rng = np.random.default_rng(own)
    order = index + 5 * test  # spread keys, tempi and voices evenly instead of by lot
    key, mode = (7 * order + seed) % 12, ("major", "minor")[(order // 3 + order // 12) % 2]
    tempo = 70 + 2 * int(45 * ((0.618034 * order + 0.37 * seed) % 1)) + test
    groove = _draw(rng, [name for name, (slow, fast, _) in GROOVES.items() if slow <= tempo <= fast])
    families = _band(rng, index)
    shift = key if mode == "major" else key - 9  # charts are written in C major and A minor
    bars = list(_form(rng, shift, mode, tempo, seconds, families))
    font = {"unseen soundfont": TIM}.get(special) or _draw(rng, (FLUID, FLUID, MUSESCORE))
    parts = [_drummer(rng, bars, tempo, groove, font, special), _bassist(rng, bars, tempo, font)]
    sides = rng.permutation([-0.5, 0.5, 0.15])
    for family, side in zip(families, sides, strict=False):
        parts.append(_accompanist(rng, bars, tempo, family, font, float(side) * rng.uniform(0.5, 1.2)))
    if special == "silent drums":
        parts = parts[1:]
    voice = VOICES[(order + order // 4) % 4]
    singer = replace(
        voice,
        tract=voice.tract * rng.uniform(0.96, 1.05),
        vibrato=rng.uniform(0.2, 0.5),
        rate=rng.uniform(5.0, 6.3),
        breath=rng.uniform(0.01, 0.04),
    )
    voices, phrases = _singers(rng, bars, tempo, shift, singer, taken)
    first, second = TITLES
    return Song(
        name=f"Toyband{' Test' * test} {index + 1:02d} - {first[order % 10]} {second[(3 * order + order // 10) % 10]}",
        seed=own,
        key=KEYS[key],
        mode=mode,
        tempo=tempo,
        special=special,
        groove=groove,
        parts=[replace(part, notes=[n for n in part.notes if n[0] < seconds]) for part in parts],
        voices=[] if special == "no vocals" else voices,
        phrases=phrases,
        ending=1.2 if bars[-1].section == "end" else 0.05,
    )


def _draw(rng, options):
    return options[int(rng.integers(len(options)))]


def _band(rng, index):
    """Families that accompany: guitar and piano, mostly with a third, in even songs; two or three in odd ones."""
    rest = list(rng.permutation([name for name in PLAYERS if name not in ("guitar", "piano")]))
    if index % 2 == 0:
        return ["guitar", "piano", *rest[: int(rng.random() < 0.6)]]
    return [_draw(rng, ("guitar", "piano")), *rest[: int(rng.integers(1, 3))]]


def _form(rng, shift, mode, tempo, seconds, families) -> Iterator[_Bar]:
    """The bars of a song: intro, verse, chorus, verse, break, ... and a last chord that rings, if time allows."""
    length = 240.0 / tempo
    count = int(np.ceil(seconds / length))
    last = int(seconds / length - 0.4) if seconds / length > 6 else count
    everyone = ["drums", "bass", "vocals", *families]
    plan = [("intro", 2)] * (seconds >= 12 and rng.random() < 0.7) + [("verse", 4 if last < 14 else 8), ("chorus", 4)]
    plan += [("break", 2)] * (rng.random() < 0.6) + [("verse", 4), ("chorus", 8)] * 100
    verse, chorus = (_draw(rng, PROGRESSIONS[mode]).split("|") for _ in range(2))
    harmony, labels = [], []
    for section, bars in plan:
        resting = {
            "intro": {"vocals", _draw(rng, ("drums", "bass", families[0]))},
            "verse": {families[-1]} if rng.random() < 0.6 else set(),
            "chorus": set(),
            "break": {"vocals", *[name for name in ("drums", "bass", families[0]) if rng.random() < 0.5]},
        }[section]
        for index in range(bars):
            harmony.append((chorus if section == "chorus" else verse)[index % 4])
            labels.append((section, index, index == bars - 1, frozenset(everyone) - resting))
    harmony[last] = "C" if mode == "major" else "Am"
    labels[last] = ("end", 0, False, frozenset(everyone))
    chords = [[_chord(name, shift) for name in bar.split()] for bar in harmony[: count + 1]]
    for bar in range(min(count, last + 1)):
        yield _Bar(bar * length, chords[bar], chords[bar + 1][0][0], *labels[bar])


def _chord(name, shift):
    letter, accidental, quality = re.fullmatch(r"([A-G])(b?)(.*)", name).groups()
    root = (SCALE[letter] - len(accidental) + shift) % 12
    return root, tuple((root + step) % 12 for step in QUALITIES[quality])


def _near(pitch_class, centre):
    """The pitch of that class in the octave around `centre`."""
    return centre - 6 + (pitch_class - centre + 6) % 12


def _played(rng, notes, late=0.0, loose=0.006, spread=6):
    """Humanise (start, end, pitch, velocity): small errors of timing and force."""
    result = []
    for start, end, pitch, velocity in notes:
        start = max(0.0, start + late + loose * float(np.clip(rng.standard_normal(), -2, 2)))
        force = int(np.clip(velocity + spread * rng.standard_normal(), 20, 127))
        result.append((start, max(end, start + 0.05), int(pitch), force))
    return result


def _drummer(rng, bars, tempo, groove, font, special):
    sampled = _draw(rng, (PEARL, ZEPPELIN)) if special is None and rng.random() < 0.5 else None
    if groove in ("house", "disco"):
        kit = _draw(rng, (24, 25, 16, 0))
    else:
        kit = _draw(rng, (40, 32)) if groove in ("swing", "bossa", "ballad") else _draw(rng, (0, 8, 16))
    notes, length = [], 240.0 / tempo
    ride = rng.random() < 0.5
    for bar in (bar for bar in bars if "drums" in bar.playing):
        pattern = dict(GROOVES[groove][2])
        if bar.section == "chorus" and ride and HAT in pattern:
            pattern[RIDE] = pattern.pop(HAT)
        if bar.section == "end":
            pattern = {KICK: "X" + "." * 15, CRASH: "X" + "." * 15}
        elif bar.fill or (bar.index % 4 == 3 and rng.random() < 0.5):
            fill = _draw(rng, FILLS)
            begin = min(line.find(hit) for line in fill.values() for hit in "Xx" if hit in line) / 16
            pattern = {k: line[: int(begin * len(line))].ljust(len(line), ".") for k, line in pattern.items()}
            pattern = {KICK: "." * 16} | pattern | {k: _overlay(pattern.get(k), line) for k, line in fill.items()}
        elif bar.index == 0 and bar.section != "intro":
            pattern[CRASH] = "X" + "." * 15
        loud = {"verse": 0.9, "intro": 0.85, "break": 0.85}.get(bar.section, 1.0)
        for pitch, line in pattern.items():
            for step, hit in enumerate(line):
                if hit != "." and not (hit == "g" and rng.random() < 0.3):
                    start = bar.start + step * length / len(line)
                    notes.append((start, start + (2.5 if pitch in (CRASH, RIDE) else 0.3), pitch, HITS[hit] * loud))
    notes = _played(rng, notes, loose=0.004, spread=5)
    return Part(
        "drums", sampled or font, 0 if sampled else kit, notes, not sampled, -21 + rng.uniform(-1, 1.5), 0.0, 0.15
    )


def _overlay(line, fill):
    """A fill over what is left of the groove's line; the finer grid of the two stays whole."""
    if line is None or len(line) != len(fill):
        return fill
    return "".join(new if new != "." else old for old, new in zip(line, fill, strict=True))


def _bassist(rng, bars, tempo, font):
    verse, chorus = _draw(rng, BASS_LINES), _draw(rng, BASS_LINES)
    program, step = _draw(rng, BASSES), 15.0 / tempo
    notes = []
    for bar in (bar for bar in bars if "bass" in bar.playing):
        line = {"end": "R" + "." * 15, "chorus": chorus}.get(bar.section, verse)
        hits = [i for i, mark in enumerate(line) if mark != "."]
        for i, until in zip(hits, [*hits[1:], 16], strict=True):
            root, tones = bar.chords[i * len(bar.chords) // 16]
            low = _near(root, 34)
            after = _near(bar.after, low)
            mark = line[i].lower()
            towards = after + (-1 if after > low else 2 if after == low else 1)
            pitch = {"r": low, "f": low + (tones[2] - root) % 12, "o": low + 12, "t": low + (tones[1] - root) % 12}
            start = bar.start + i * step
            end = bar.start + 3 * 16 * step if bar.section == "end" else start + (until - i) * step * 0.92
            notes.append(
                (start, min(end, start + 16 * step), pitch.get(mark, towards), 104 if line[i].isupper() else 90)
            )
    return Part("bass", font, program, _played(rng, notes, 0.003), level=-20 + rng.uniform(-1, 1), reverb=0.05)


def _accompanist(rng, bars, tempo, family, font, pan):
    program, manners = _draw(rng, [(p, manners) for programs, manners in PLAYERS[family] for p in programs])
    verse, chorus = _draw(rng, manners), _draw(rng, manners)
    centre = {"guitar": 57, "piano": 62, "wind": 72, "mallet": 74, "synth": 69, "brass": 65}.get(family, 64)
    climb = _draw(rng, ((0, 1, 2, 3), (0, 2, 1, 3), (0, 1, 2, 3, 2, 1), (3, 2, 1, 0), (0, 2, 3, 2)))
    step, notes = 15.0 / tempo, []
    for bar in (bar for bar in bars if family in bar.playing):
        manner, line = (
            ("pad", "x...............") if bar.section == "end" else chorus if bar.section == "chorus" else verse
        )
        hits = [i for i, mark in enumerate(line) if mark != "."]
        for count, (i, until) in enumerate(zip(hits, [*hits[1:], 16], strict=True)):
            root, tones = bar.chords[i * len(bar.chords) // 16]
            chord = sorted(_near(tone, centre) for tone in tones)
            if family in ("guitar", "piano") or manner == "arpeggio":
                chord = sorted({*chord, _near(root, centre - 12), chord[0] + 12})
            start, span = bar.start + i * step, (until - i) * step
            force = 100 if line[i] in "XD" else 84
            if manner == "arpeggio":
                pick = climb[count % len(climb)] % len(chord)
                notes.append((start, start + max(2 * span, 0.4), chord[pick], force))
            elif manner == "line":
                pitch = _near(_draw(rng, tones), chord[-1] if rng.random() < 0.5 else centre + 3)
                notes.append((start, start + 0.95 * span, pitch, force))
            elif manner == "power":
                low = _near(root, 45)
                notes += [(start, start + 0.85 * span, low + up, force) for up in (0, 7, 12)]
            else:
                short = {"stab": min(0.18, span), "pad": span * (2 if bar.section == "end" else 1)}.get(
                    manner, 0.9 * span
                )
                stroke = chord[::-1] if line[i] == "U" else chord
                delay = {"strum": 0.014, "block": 0.002}.get(manner, 0.0)
                for place, pitch in enumerate(stroke[:4] if line[i] == "U" else stroke):
                    notes.append((start + place * delay, start + short, pitch, force - 2 * place))
    level = LEVELS.get(family, -25) + rng.uniform(-1.5, 1.5)
    stem = family if family in ("guitar", "piano") else "rest"
    return Part(stem, font, program, _played(rng, notes), level=level, pan=pan, reverb=rng.uniform(0.2, 0.5))


def _singers(rng, bars, tempo, shift, voice, taken):
    """The lead and, in some songs, a second voice under its choruses; also all phrases in comparable form.

    Phrases span two bars. The same place in the form brings the same tune and words, unless redrawn at a whim.
    """
    eighth, lead, phrases, memory, pitch = 30.0 / tempo, [], set(), {}, voice.low + 8
    singing = {(bar.section, bar.start): bar for bar in bars if "vocals" in bar.playing}
    for first in (bar for bar in singing.values() if bar.index % 2 == 0):
        second = singing.get((first.section, first.start + 8 * eighth))
        pair, place = [first, second or first][: 1 + (second is not None)], (first.section, first.index % 4)
        if rng.random() < 0.3:
            memory.pop(place, None)
        while True:
            rhythm, seed = memory.get(place) or (
                _draw(rng, OPENINGS) + _draw(rng, CLOSINGS),
                int(rng.integers(1 << 30)),
            )
            rhythm = "x-------" if first.section == "end" else rhythm[: 8 * len(pair)]
            tune = np.random.default_rng(seed)
            phrase = _phrase(tune, rhythm, pair, voice.low, pitch, shift)
            shape = tuple((at, sung - phrase[0][2]) for at, _, sung in phrase)
            if len(shape) < LONG_PHRASE or shape not in taken:
                break
            memory.pop(place, None)
        memory[place], pitch = (rhythm, seed), phrase[-1][2]
        phrases |= {shape} if len(shape) >= LONG_PHRASE else set()
        for count, (at, held, sung) in enumerate(phrase):
            words = (_draw(tune, list(CONSONANTS)), _draw(tune, list(VOWELS)))
            words = ("", "") if count and tune.random() < 0.12 else words  # a melisma: on with the last vowel
            start = max(0.12, first.start + at * eighth + 0.01 * rng.standard_normal())
            force = (0.85, 1.0)[at % 4 == 0] * rng.uniform(0.85, 1.0)
            end = first.start + (at + held) * eighth - 0.02
            lead.append(Syllable(start, max(end, start + 0.05), sung, *words, count == 0, force))
    voices = [(voice, lead, -19.0 + rng.uniform(-1, 1), 0.0)]
    if rng.random() < 0.35:
        scale = [(tone + shift) % 12 for tone in SCALE.values()]
        third = {p: next(q for q in (p - 3, p - 4, p - 5) if q % 12 in scale) for p in range(20, 100)}
        spans = [(bar.start - 0.1, bar.start + 8 * eighth - 0.1) for bar in bars if bar.section in ("chorus", "end")]
        echo = [s for s in lead if any(begin <= s.start < end for begin, end in spans)]
        echo = [replace(s, pitch=third[s.pitch], start=s.start + 0.015) for s in echo]
        double = replace(voice, tract=1.04 * voice.tract, rate=0.93 * voice.rate)
        voices += [(double, echo, -27.0, _draw(rng, (-0.5, 0.5)))] if echo else []
    return voices, frozenset(phrases)


def _phrase(tune, rhythm, bars, low, pitch, shift):
    """One phrase as (onset, length, pitch) in eighths: strong beats and the end take chord tones., all moves are small."""
    scale, notes = {(tone + shift) % 12 for tone in SCALE.values()}, []
    centre = low + (11 if bars[0].section == "chorus" else 7)
    for at in (i for i, mark in enumerate(rhythm) if mark == "x"):
        chord = bars[at // 8].chords[at % 8 * len(bars[at // 8].chords) // 8][1]
        clash = {(tone + side) % 12 for tone in chord for side in (-1, 1)}
        tones = set(chord) if at % 4 == 0 or "x" not in rhythm[at + 1 :] else set(chord) | (scale - clash)
        near = np.array([p for p in range(low, low + 17) if p % 12 in tones])
        weight = np.exp(-np.abs(near - pitch) / 2.5 - ((near - centre) / 6.0) ** 2 - 0.7 * (near == pitch))
        weight[np.abs(near - pitch) > 7] *= 0.01  # a leap beyond a fifth only where nothing else is left
        pitch = int(tune.choice(near, p=weight / weight.sum()))
        rest = rhythm[at + 1 :]
        notes.append((at, 1 + len(rest) - len(rest.lstrip("-")), pitch))
    return notes
