"""English prose from a grammar, fast and endless, for corpora with a known truth: nothing in it is anybody's text.

Sentences are plain and make sense one at a time. There are enough words and patterns that two documents made apart
share almost no five words in a row: no pattern has five of its own words in a row, and each window of five holds one
word or more of hundreds (a test counts what is shared). About 10 MB a second.
"""

from __future__ import annotations

import random
from collections.abc import Iterator


def _words(text: str) -> list[str]:
    return text.split()


def _lines(text: str) -> list[str]:
    return text.split("\n")


NOUNS = _words("""
archive bridge harbour orchard engine lantern kettle ledger meadow mirror museum needle orchestra parcel
pavement pebble pier pigeon pillow plough pocket portrait pottery quarry quilt railway reservoir ribbon roof saddle
sail satchel scaffold schoolroom scissors seedling shed shelf shutter signal sketch sleeve spade spindle staircase
stable statue stove suitcase sundial tablecloth teapot telescope theatre thermometer thimble ticket timber tower
tractor trellis trumpet tunnel turbine umbrella valley vane vegetable vessel viaduct village vine violin wagon wardrobe
warehouse watermill weathercock wharf wheel whistle willow windmill window workshop wreath yard almanac anchor antenna
apron aquarium attic axle bakery balcony barge barometer barrel basin basket battery beacon beehive bellows bench
bicycle blanket blueprint boiler bookshop bottle boulder bracket brass brewery brick broom brush bucket buckle bulb
cabin cabinet calendar canal candle canvas carpet cart cellar chapel chart chimney chisel cinema circuit clay cliff
cloak clock coast cobbler collar column compass concert copper cordage cottage courtyard cradle crane crate creek
crystal cupboard curtain cushion dairy dam depot desk diary dock doorway drawer dune easel estuary fabric factory
farmhouse feather fence ferry festival fiddle fiddler field fireplace flagpole flask flint flour flute footpath forge
fountain fox frame furnace furrow gable gallery gardener garland gate gauge gear glacier glove granary grocer grove
guitar gutter hallway hammer hammock harness harp hatch haystack hedge heron hinge hive hoist honey horizon hospital
hostel hut icehouse inkwell inn island ivory jacket jar jetty jug keel kiln kitchen knot ladder lagoon lake lamp latch
lathe laundry lawn leaf lens letter lever library lighthouse limestone linen lock locomotive loom luggage mallet map
maple marble market marsh mast matchbox mattress medal microscope mill mine mint mortar mosaic motor mound mural nest
net newspaper nursery nutmeg oar oak observatory opera orchid oven paddle painting pan paper parade parlour pasture
path pear pendulum pepper piano pine pipe pitcher plank plaster platform plum pond poplar porch postcard poster pulley
pump puppet quay raft rail rake recipe reed ridge river rope rose rudder sand sawmill scale school screw shawl sheep
shell ship shop shovel sieve silk silver slate sledge snow soap soil spice spoon spring stall station steam steeple
stone storm stream street string sugar swan table tailor tank tannery tapestry tent terrace thread tide tile toolbox
torch track tray tree tributary trunk tulip twine valve vault veranda vineyard wall walnut watch weaver weir well
wheat wicker wire wood wool wrench""")
ADJECTIVES = _words("""
ancient amber autumnal bare battered bitter blue bold borrowed brick bright brittle broad broken bronze
busy calm careful carved cheap chilly clean clear clever cloudy coarse cold colourful common copper costly cracked
crooked crowded curious curved damp dark deep delicate dented distant double dry dull dusty early eastern elegant empty
enormous faded faint familiar famous fertile final fine flat foggy folded foreign forgotten fragile fresh frozen
gentle gilded glass golden grand graceful grateful green grey half handmade handsome hard harmless heavy hidden high
hollow huge humble icy idle iron jagged jolly large late lazy leaning light little local lonely long loose loud
lovely low lucky marble massive mellow mended mild modern modest muddy narrow neat new noble noisy northern oaken odd
old open orange ordinary ornate oval painted pale patient peaceful plain pleasant polished poor popular private proud
public purple quaint quick quiet rare red reliable restless rich rough round rural rusty sandy scarlet second secret
shallow sharp shining short silent silver simple slender slow small smooth snowy soft solid southern spare square
stately steady steep sticky stone stout straight strange striped strong stubborn sturdy sudden sunny sweet swift tall
tame temporary thick thin tidy timber tiny tired tranquil twisted uneven unusual upper vacant vast velvet
violet warm weathered western wet white wide wild windy winding wooden woollen yellow young""")
VERBS = _words("""
admired adjusted altered arranged assembled avoided balanced borrowed bought brought built carried carved
catalogued cleaned climbed collected compared completed copied counted covered crossed decorated delivered
described designed discovered displayed doubled drained emptied enlarged entered examined explained explored
fetched filled finished fitted fixed followed found framed gathered guarded hauled hired improved inherited
inspected installed invented joined kept labelled lent lifted lit loaded located locked loosened lowered maintained
measured mended mentioned missed mixed moved noticed observed offered opened ordered owned packed painted passed
planned planted polished praised prepared preserved protected pulled purchased pushed raised reached rebuilt received
recognised recorded recovered removed rented repaired replaced rescued restored returned reviewed revived sealed
searched selected sent shaped shared sharpened shifted sketched sold sorted split stacked started stored
straightened studied supplied surveyed tested tightened touched traced tracked traded transported treated trimmed
turned unloaded unpacked used valued visited warmed washed watched weighed widened wrapped""")
PEOPLE = _words("""
baker barber beekeeper blacksmith boatman bookbinder botanist bricklayer builder butcher captain carpenter
cashier chemist clerk clockmaker coachman collector conductor cook curator dentist doctor driver editor electrician
engineer farmer ferryman fisherman florist forester geologist glazier guide historian innkeeper inspector jeweller
joiner journalist judge keeper lawyer lecturer librarian locksmith mason mayor mechanic merchant midwife miller miner
musician neighbour nurse painter pharmacist photographer physicist pilot plumber poet porter postman potter printer
professor ranger referee sailor saddler scholar sculptor secretary shepherd singer smith soldier stonemason surgeon
surveyor tanner teacher tinsmith tourist translator traveller tutor typist upholsterer vet waiter warden watchmaker
weaver widow wheelwright writer""")
ADVERBS = _words("""
again almost barely before briefly calmly carefully certainly clearly daily early easily eagerly finally
gently gladly gradually happily hardly honestly hurriedly immediately later lately mostly nearly neatly nervously never
often once openly partly patiently perhaps politely promptly proudly quickly quietly rarely readily recently reluctantly
secretly seldom silently simply slowly smoothly soon steadily suddenly surely thoroughly twice usually willingly
wisely""")
STARTS = _words("""
Al Ash Bar Ben Bram Brook Cal Car Clay Dal Dun East Ed Elm Fair Fen Glen Gran Hal Har Haw Hol Kel
Kings Lang Lin Mar Mel Mid New Nor Oak Or Pen Quin Rad Red Rock Ros Sel Shel Stan Sut Thorn Tor Wal War Wat Wex Win
Yar""")
ENDS = _words("""
bury by combe cott dale den don field ford gate ham holm hurst ley low mere mond more mouth ridge rick side
stead stoke stone ton try vale wall water well wick wood worth""")
FIRST = _words("""
Ada Amos Clara Daniel Edith Ellen Felix Frances George Grace Hugo Irene Jasper Laura Martin Nora Oscar
Ruth Silas Thomas""")
PLACES = [start + end for start in STARTS for end in ENDS]
NAMES = [f"{first} {start}{end}" for first in FIRST for start in STARTS[::2] for end in ENDS[::3]]
YEARS = [str(year) for year in range(1790, 2024)]

# N a noun, A an adjective, V a verb in the past, W a trade, P a place, H a person's name, D an adverb, Y a year
PATTERNS = _lines("""The A N near P was V by a A W in Y.
H V the A N and D V the N beside it.
In Y the W from P V a A N for the N.
Nobody in P had D V such a A N.
The W V a N, a N and one A N before H arrived.
H D V the N that the A W had V.
Visitors to P D admire its A N and the A N.
A A N stood between the N and the A N.
When the N was V, the W of P D V every N.
The N cost more than a A N, as H D explained.
After Y the A N of P was V and D V.
H, a A W, V the N with a A N.
It was a A N, with a A N above the N.
The W of P asked for a N and D V it.
Some say that H V the N in Y, when P was still A.
Behind the A N there was a N that few had V.
The A W D V each N, and H V the rest.
From the N at P one could see a A N and a N.
By Y the N had been V, and a A N took its place.
Every N in P has a A N and a A N.
A letter from H, dated Y, mentions a N and the A N.
The N was A, but the W D V it with a N.
Why H V the A N nobody knows, for the N was A.
Two of the A N were V; the N at P was not.
With a N in one hand, the W V the A N.
H remembered the N of P as A and D A.
The A W and the A W D V a N together.
Since Y, P has V its N beside the A N.
On market days the W D V N and N at P.
A A N, V in Y, hangs above the N today.
Under the N lay a N, which H D V.
If the N is A, a W will D look for another N.
The road to P passes a A N and a A N.
Children in P still call the A N after H.
The N of H was A, yet its N never failed.
Neither the W nor H had V the A N.
Because the A N leaked, the W V a N instead.
The N, A and A, was D V by H.
Beyond P the N turns A and the N A.
No A N was V that year, said the W of P.""")
POOLS = {"N": NOUNS, "A": ADJECTIVES, "V": VERBS, "W": PEOPLE, "P": PLACES, "H": NAMES, "D": ADVERBS, "Y": YEARS}


def _compile(pattern: str) -> tuple[str, str]:
    """A pattern as a format string, and the letters of its slots in order."""
    form, letters = [], []
    for i, char in enumerate(pattern):
        alone = char in POOLS and not (pattern[i - 1 : i].isalpha() or pattern[i + 1 : i + 2].isalpha())
        # the article A of a sentence's beginning is followed by the adjective's slot, and is no slot itself
        if alone and not (i == 0 and char == "A"):
            form.append("%s")
            letters.append(char)
        else:
            form.append(char)
    return "".join(form), "".join(letters)


FORMS = [_compile(pattern) for pattern in PATTERNS]


def sentences(rng: random.Random, count: int) -> list[str]:
    """That many sentences, each pattern drawn anew."""
    forms = rng.choices(FORMS, k=count)
    letters = "".join(letters for _, letters in forms)
    drawn = {letter: iter(rng.choices(POOLS[letter], k=letters.count(letter))) for letter in POOLS}
    words = [next(drawn[letter]) for letter in letters]
    found, at = [], 0
    for form, slots in forms:
        found.append(form % tuple(words[at : at + len(slots)]))
        at += len(slots)
    text = "\n" + "\n".join(found)
    for vowel in "aeiou":
        text = text.replace(f" a {vowel}", f" an {vowel}").replace(f"\nA {vowel}", f"\nAn {vowel}")
    return text[1:].split("\n")


def paragraphs(rng: random.Random, count: int) -> list[list[str]]:
    """`count` sentences in paragraphs of three to seven."""
    found, at = sentences(rng, count), 0
    parts = []
    while at < count:
        size = rng.randint(3, 7)
        parts.append(found[at : at + size])
        at += size
    return parts


def join(parts: list[list[str]]) -> str:
    """Paragraphs as a text: one a line."""
    return "\n".join(" ".join(sentences) for sentences in parts if sentences)


def document(rng: random.Random) -> str:
    """A document of 100 to 1000 words or so, short ones more often."""
    return join(paragraphs(rng, min(90, 10 + int(rng.expovariate(1 / 18)))))


def stream(seed: int) -> Iterator[str]:
    """Documents without end, the same for the same seed."""
    rng = random.Random(seed)
    while True:
        yield document(rng)
