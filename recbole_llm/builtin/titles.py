"""Made-up titles for pretraining: generic English words, pseudo words built from syllables, digits, punctuation.

No title of a dataset is read here or anywhere in this package: the built-in model must learn to copy and compare
titles, not to know them. Pseudo words ("Brelton", "mokari") keep the byte-pair pieces in varied order, so that names
the tokenizer has never met are copied piece by piece like any other.
"""

from __future__ import annotations

import numpy as np

ADJECTIVES = """ancient bitter black blue bold brave bright broken calm clever cold crimson crooked dark deadly deep
distant dirty dry eager early east empty endless eternal evil fading false famous fast fatal fearless final first
forgotten fragile free frozen gentle giant golden good grand gray great green happy hard heavy hidden hollow holy
honest hungry icy inner invisible iron kind large last late lazy little lonely long lost loud lucky mad magic mellow
mighty modern mystic naked narrow new noble north odd old open pale perfect plain poor pretty private proud pure quick
quiet rare raw real red rich royal rude rusty sacred sad savage secret shallow sharp shiny short silent silver simple
sleepy slow small smooth soft solar solid south special still strange strong sudden sunny super sweet swift tall tender
terrible thin tiny total tough true twisted ugly unknown upper urban vast velvet violent warm weak west white wicked
wide wild wise wooden wrong yellow young""".split()

NOUNS = """action affair age air alley angel animal apple arch army arrow art autumn baby band bank battle bay beach
bear beast beauty bed bell bird birth blade blood boat body bone book border bottle boy brain bread bridge brother
bullet bus butterfly cage camp candle captain car card castle cat cave chain chance child church circle circus city
clock cloud club coast code coffee color company computer corner country cousin cowboy crew crime crown cruise cup
dance danger daughter dawn day deal death desert detective devil diamond dinner doctor dog doll door dragon dream
driver drum dust eagle earth echo edge empire end enemy engine error evening eye face factory faith fall family farm
father fear feather fever field fighter film fire fish flag flame flight flower fool forest fortune fox friend future
game garden gate ghost gift girl glass glory gold grave guard guest guitar gun hair hall hand harbor harvest hat hawk
heart heat heaven hero hill history holiday home honey hope horse hotel hour house hunter husband ice idea image
island jacket jazz jewel job journey joy judge jungle jury key king kingdom kiss kitchen knife knight lady lake lamp
land language law leaf legend lesson letter liar lie life light lightning line lion list love machine man map mark
market marriage mask master matter meadow memory men mercy message midnight mile mind miracle mirror missile model
moment money monkey monster month moon morning mother motion mountain mouse mouth movie murder music name nation
nature neighbor net night noise number ocean office oil orchid order outlaw owl page paint palace paper parade parent
park partner party path peace pearl people phantom phone photo piano picture pilot pirate planet plastic player
pocket poet poison police pony pool power preacher price pride prince prison promise prophet puppet queen question
radio rain ranger rebel record report rhythm rider ring river road robot rock room rose rule runner sailor saint salt
sand school science sea season secret sentence servant seven shadow shark shelter ship shoe shop shore show sign
singer sister sky slave sleep smile smoke snake snow soldier song soul sound space spider spirit sport spring spy
stage star station stone storm story stranger street string student sugar summer sun surprise sword table tale target
teacher tear temple thief thing thread throne thunder ticket tide tiger time tongue tower town toy track trade train
travel treasure tree trial tribe trick trip trouble truck truth tunnel twin uncle universe valley victory village
violin virgin vision visitor voice volcano voyage wall war warrior watch water wave way wedding week west whale wheel
whisper widow wife wind window wine wing winter wish witch witness wolf woman wonder wood word work world worm wound
writer year youth zero zone""".split()

VERBS = """beyond become believe bring burn buy call carry catch change chase climb come cross cry cut die dig dive
drive drown eat escape fall feel fight find float fly follow forget get give go grow guess hate hear hide hit hold
hunt join jump keep kill know laugh lead learn leave listen live look lose make marry meet move need never open play
pray pull push raise read remember return ride rise rob run save say search see seek sell send share shine shoot sing
sit sleep speak stand stay steal stop swim take talk teach tell think throw touch travel try turn wait wake walk want
wash wear win write""".split()

NAMES = """Adam Alice Amy Andrew Anna Ben Betty Bill Bob Carl Carmen Charlie Claire Clara Daisy Dan David Diana Ed
Ella Emma Eva Frank Fred George Grace Hank Harry Helen Henry Ida Jack James Jane Jean Jerry Jim Joan Joe John Julia
Karl Kate Kim Larry Laura Leo Linda Lisa Louis Lucy Maria Mark Martha Mary Max Mike Molly Nancy Nick Nina Olga Oscar
Otto Paul Peter Rachel Ralph Ray Rita Robert Roger Rosa Ruth Sally Sam Sara Simon Sophie Steve Susan Ted Tim Tom Tony
Vera Victor Walter Wendy Will Zoe""".split()

PLACES = """Africa America Berlin Boston Brooklyn California Chicago China Dublin Egypt England Florida France Havana
India Japan London Madrid Mexico Moscow Paris Rio Rome Russia Spain Sweden Texas Tokyo Venice Vienna""".split()

ENDINGS = "er ers ing ed ly ness less ful ist ism land man ville ton ton's ia o a y ie ers's s".split()
ONSETS = (
    "b bl br c ch cl cr d dr f fl fr g gl gr h j k kl kr l m n p "
    "ph pl pr qu r s sc sh sk sl sm sn sp st str sw t"
).split()
ONSETS += "th tr tw v w wh x y z ts zh".split() + [""] * 6
VOWELS = "a a a e e e i i i o o o u u y ai au ay ea ee ei eo ie io oa oi oo ou ow ue é ö ü ã".split()
CODAS = "b c ck d ff g k l ll lt m mp n n nd ng nt p r r rd rk rn rt s s ss st t t th tt v w x z".split() + [""] * 14
LINKS = (
    "of the|of|in the|in|and the|and|&|to the|to|on|for|from|"
    "with|without|at|by|vs.|or|de|la|du|der|von|under the"
).split("|")
ROMAN = "II III IV V VI VII".split()


def pseudo_word(rng: np.random.Generator, parts: int | None = None) -> str:
    """A pronounceable word of 1-4 syllables, lower case."""
    parts = parts or int(rng.integers(1, 5))
    pick = rng.random(3 * parts)
    word = "".join(
        ONSETS[int(pick[3 * i] * len(ONSETS))] + VOWELS[int(pick[3 * i + 1] * len(VOWELS))]
        + (CODAS[int(pick[3 * i + 2] * len(CODAS))] if i + 1 == parts or pick[3 * i + 2] > 0.6 else "")
        for i in range(parts)
    )
    return word if len(word) > 1 else word + "an"


def title_word(rng: np.random.Generator, pseudo: float) -> str:
    """A word as titles have it; ``pseudo`` is the chance of a made-up one."""
    draw = rng.random()
    if draw < pseudo:
        return pseudo_word(rng).capitalize()
    lists = (ADJECTIVES, NOUNS, NOUNS, VERBS, NAMES, PLACES)
    words = lists[int(rng.integers(len(lists)))]
    word = words[int(rng.integers(len(words)))]
    if rng.random() < 0.15:
        word += ENDINGS[int(rng.integers(len(ENDINGS)))]
    elif rng.random() < 0.15:
        word += "s"
    return word[0].upper() + word[1:]


def _decorate(rng: np.random.Generator, words: list[str]) -> str:
    """Punctuation, articles, numbers and case as titles of films, games, books and artists have them."""
    draw = rng.random(6)
    text = words[0]
    for word in words[1:]:
        gap = rng.random()
        if gap < 0.16:
            text += " " + LINKS[int(rng.integers(len(LINKS)))] + " " + word
        elif gap < 0.21:
            text += ": " + word
        elif gap < 0.25:
            text += ("-", ", ", "'s ", " - ", "! ", "/", ". ", "? ")[int(rng.integers(8))] + word
        else:
            text += " " + word
    if draw[0] < 0.22:
        text = ("The ", "The ", "The ", "A ", "An ", "Les ", "My ", "El ")[int(rng.integers(8))] + text
    if draw[1] < 0.05:
        text += " " + ROMAN[int(rng.integers(len(ROMAN)))]
    elif draw[1] < 0.12:
        text += " " + str(int(rng.integers(2, 2100)))
    if draw[2] < 0.05:
        text += (" (" + words[-1] + ")", "!", "?", ", The", "...", " 'n' " + words[0])[int(rng.integers(6))]
    if draw[3] < 0.04:
        text = text.upper()
    elif draw[3] < 0.09:
        text = text.lower()
    if draw[4] < 0.02:
        text = ("$", "#", "@", "+", "“", "¡", "[", "*")[int(rng.integers(8))] + text
    return text


def make_title(rng: np.random.Generator, pseudo: float = 0.35) -> str:
    """One title of 1-6 words. ``pseudo`` is the share of pseudo words."""
    count = int(rng.choice((1, 2, 3, 4, 5, 6), p=(0.22, 0.34, 0.22, 0.12, 0.06, 0.04)))
    return _decorate(rng, [title_word(rng, pseudo) for _ in range(count)])


def make_titles(seed: int, count: int, pseudo: float = 0.35) -> list[str]:
    """``count`` titles, the same for the same seed."""
    rng = np.random.default_rng(seed)
    return [make_title(rng, pseudo) for _ in range(count)]
