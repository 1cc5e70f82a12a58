"""The words the small model's world is made of: who is in it, what they hold, and where they are.

Every line here was written for this project and is released under its licence, MIT OR Apache-2.0.
"""

# noun, pronoun choices (h = he, s = she, i = it), home, what it loves to do
HEROES = """
fox|hs|in a warm den under an old oak tree|run through the tall grass
rabbit|hs|in a cozy burrow under the hill|hop over the stones
bear|hs|in a cave near the river|eat sweet honey
mouse|hs|in a tiny house behind the kitchen wall|nibble cheese
cat|hs|in a yellow house at the end of the lane|sleep in the sun
dog|hs|in a house with a red door|run after sticks
puppy|hs|in a house with a big garden|chase his own tail
kitten|hs|in a little house by the shop|play with string
duck|hs|by a quiet pond|swim in circles
duckling|hs|by a green pond|splash in the water
frog|hs|by a pond full of water lilies|jump from leaf to leaf
owl|hs|in a hole high up in a tall tree|look at the stars
hen|s|on a small farm|look for corn
pig|hs|on a farm near the village|roll in the mud
cow|s|on a green farm|eat fresh grass
horse|hs|in a big red barn|run as fast as the wind
pony|hs|in a small stable|trot along the lane
sheep|hs|on a green hill|eat clover
lamb|hs|on a sunny hill|jump over the flowers
goat|hs|on a steep mountain|climb the rocks
squirrel|hs|in a tall pine tree|collect nuts
hedgehog|hs|under a pile of dry leaves|sniff the flowers
turtle|hs|beside a slow river|walk slowly and look at things
lion|hs|in a wide yellow land|nap in the shade
tiger|hs|in a deep green jungle|swim in the cool river
elephant|hs|near a big lake|spray water with a long trunk
giraffe|hs|in a sunny land with tall trees|eat the highest leaves
monkey|hs|in a jungle full of fruit trees|swing from branch to branch
panda|hs|in a forest of bamboo|munch green leaves
kangaroo|hs|in a dry red land|jump very high
penguin|hs|on a cold white island|slide on the ice
polar bear|hs|in the cold north|play in the snow
seal|hs|on a rocky beach|dive under the waves
whale|hs|in the deep blue sea|sing long songs
dolphin|hs|in the warm sea|leap over the waves
fish|hs|in a clear blue lake|swim through the water plants
crab|hs|under a rock on the beach|collect shells
octopus|hs|in a cave under the sea|hide and peek out
bee|s|in a busy hive|visit the flowers
ant|hs|in a busy ant hill|carry crumbs
butterfly|s|in a garden full of flowers|dance in the air
caterpillar|hs|on a big green leaf|eat and eat
snail|hs|under a cabbage leaf|go for slow walks
spider|hs|in the corner of an old barn|make pretty webs
ladybug|hs|on a rose bush|count the petals
bird|hs|in a nest at the top of a tree|sing in the morning
sparrow|hs|on the roof of a school|hop along the wall
crow|hs|in a tall dark tree|collect shiny things
parrot|hs|in a bright green tree|say funny words
wolf|hs|in the dark forest|howl at the moon
deer|hs|at the edge of the forest|walk in the morning mist
beaver|hs|in a house of sticks by the river|build dams
bat|hs|in a quiet cave|fly at night
dragon|hs|in a cave on a high mountain|blow little puffs of smoke
unicorn|hs|in a silver forest|run under the rainbow
dinosaur|hs|in a land of giant ferns|stomp in the mud
robot|hsi|in a workshop full of tools|fix broken things
fairy|s|inside a blue flower|fly from flower to flower
giant|h|in a huge house on a hill|tell jokes
elf|hs|in a house shaped like a mushroom|make toys
princess|s|in a castle with tall towers|ride her horse
prince|h|in a castle by the lake|read old maps
king|h|in a golden castle|eat plum cake
queen|s|in a white castle|plant roses
knight|hs|in a stone tower|polish a silver shield
wizard|h|in a crooked tower|mix magic drinks
witch|s|in a funny little hut|stir her big pot
pirate|hs|on a wooden ship|look for treasure
sailor|hs|in a small house by the sea|sail over the waves
farmer|hs|on a farm with a big barn|feed the animals
baker|hs|above a little bakery|bake warm bread
fisherman|h|in a hut by the sea|catch silver fish
painter|hs|in a room full of paint|paint pictures of the sky
teacher|hs|in a house near the school|read books
doctor|hs|in a white house in the village|help sick people
gardener|hs|in a house full of plants|water the flowers
boy|h|in a small house near the forest|climb trees
girl|s|in a blue house by the river|draw pictures
child|hs|in a house on a quiet street|ask questions
baby|hs|in a warm little house|laugh and clap
grandmother|s|in a cottage with a green roof|knit warm socks
grandfather|h|in an old house by the mill|tell long stories
snowman|h|in a white garden|watch the snow fall
teddy bear|h|on a shelf in a child's room|sit by the window
doll|s|in a wooden toy box|have tea parties
train|hi|at a little station|puff along the rails
little boat|i|in a small harbor|rock on the waves
star|si|high up in the night sky|shine over the sleeping town
cloud|hi|high above the hills|float over the fields
tree|i|in the middle of a meadow|listen to the birds
astronaut|hs|in a house with a tall telescope|look at the planets
clown|hs|in a bright tent|make people laugh
""".strip().splitlines()

# More of them, met now and then, so that a hero is copied from the request rather than known by heart.
MORE_HEROES = """zebra camel hippo rhino goose rooster donkey chicken swan eagle mole badger otter raccoon skunk koala llama mermaid ghost monster
troll vampire alien hero chef nurse firefighter policeman soldier hunter singer dancer musician student scientist programmer driver pilot mayor
tailor shoemaker lizard snake rat hamster goldfish shark jellyfish starfish worm grasshopper cricket beetle dragonfly firefly moth pigeon seagull
peacock ostrich flamingo moose buffalo cheetah leopard gorilla sloth weasel lobster shrimp carpenter captain cook driver judge lawyer builder
miller shepherd cowboy ninja superhero wombat puffin toad bull ox calf piglet chick cub tadpole goblin dwarf genie sheriff banker writer poet
thief stranger traveler woman man brother sister uncle aunt twin toddler neighbor cookie carrot potato pumpkin apple car truck bus airplane
rocket tractor computer phone clock lamp chair teapot pencil book kite balloon shoe sock hat mountain river stone leaf flower snowflake raindrop""".split()
WOMEN = "mermaid aunt sister woman cow hen".split()
MEN = "king policeman cowboy ox bull rooster uncle brother man peacock".split()
GENERAL_HOMES = ["in a small house at the edge of the town", "in a quiet place near the woods", "behind the green hills", "on a little street",
                 "in a faraway land", "near the river", "at the end of a long road", "in a busy town", "in a village by the sea"]
GENERAL_LOVES = ["look at the clouds", "sing little songs", "meet new friends", "walk in the sun", "tell stories", "play games", "help others",
                 "watch the birds", "laugh and dance", "learn new things", "collect stones", "dream of the sea"]

HE_NAMES = """Tom Ben Sam Max Leo Jack Tim Finn Oscar Pip Otto Hugo Rusty Milo Toby Teddy Charlie Felix Jasper Bruno Gus
Henry Peter Oliver Noah Louis Barney Fred Bobby Rufus Alfie Arlo Eddie Theo Will Jake Simon Rory Dan Benny Ned""".split()
SHE_NAMES = """Lily Mia Anna Lucy Emma Rosie Daisy Ruby Molly Bella Nora Ella Poppy Sophie Clara Ivy Hazel Tilly Grace Maya
Zoe Penny Fern Luna Alice Sara Kitty Nina Holly Wendy Mimi Dora Elsie Kate Jenny Betty Amy Willow Julia Cleo""".split()
IT_NAMES = "Bolt Zip Puff Beep Twinkle Bobo Dot Spark Pebble Moss".split()

TRAITS = """little small young kind brave shy clever happy curious gentle quiet cheerful friendly tiny funny busy sleepy
lonely hungry playful lazy proud careful polite honest silly grumpy lucky hopeful""".split()

# noun, adjectives that suit it
OBJECTS = """
kite|red blue yellow big
ball|red blue green bouncy
boat|little wooden blue old
hat|red green straw funny
key|golden small old silver
book|big old picture blue
bell|silver little golden
lantern|old bright small
drum|big red little
flute|wooden silver little
scarf|warm red long woolly
basket|big round brown
blanket|soft blue warm
balloon|red yellow big
map|old dusty secret
box|wooden little blue secret
stone|shiny smooth blue round
shell|pink white pretty
feather|white blue long
coin|shiny golden old
mirror|little silver old
cup|blue white little
spoon|big wooden silver
wagon|red little wooden
bicycle|blue shiny old
umbrella|yellow red big
button|shiny green big
ring|golden silver little
crown|golden shiny little
lamp|old bright little
clock|old tall little
toy car|red fast little
toy train|green little wooden
teddy bear|soft brown old
doll|little pretty old
paintbrush|long new little
flower|blue yellow pretty
acorn|big brown smooth
egg|blue big speckled
pumpkin|big orange round
rope|long strong old
ladder|tall wooden old
bucket|green old big
whistle|silver loud little
pillow|soft white big
sled|fast red wooden
backpack|green big new
violin|old brown little
telescope|long shiny old
star|bright little golden
""".strip().splitlines()

MORE_OBJECTS = """pencil phone guitar sock shoe coat candle pot broom chair bag letter ticket watch camera scooter skateboard puppet necklace
bottle hammer net leaf rose apple pear carrot lemon mushroom pearl diamond sword shield helmet trumpet piano tent jar plate glove boot
computer robot puzzle marble dice card coat belt brush comb ribbon bow arrow spade rake nail wheel plant pen paper cookie candy jewel""".split()
MORE_ADJECTIVES = "little big old new shiny nice red blue green pretty".split()

# phrase with preposition of rest, phrase of motion, the bare place
PLACES = """
in the forest|into the forest|forest
in the woods|into the woods|woods
by the river|to the river|river
by the lake|to the lake|lake
at the pond|to the pond|pond
on the beach|to the beach|beach
by the sea|to the sea|sea
on the hill|up the hill|hill
in the meadow|to the meadow|meadow
in the garden|into the garden|garden
in the park|to the park|park
in the village|to the village|village
in the town|into the town|town
on the farm|to the farm|farm
in the valley|down to the valley|valley
near the old mill|to the old mill|mill
under the big oak tree|to the big oak tree|oak tree
in the field|across the field|field
on the mountain|up the mountain|mountain
by the old bridge|to the old bridge|bridge
at the market|to the market|market
in the orchard|to the orchard|orchard
""".strip().splitlines()

FOODS = """bread and cheese;apple pie;a honey cake;a bowl of soup;a basket of berries;warm bread;sweet plums;red apples;
carrot soup;a blueberry pie;pancakes;a big sandwich;ripe pears;corn cakes;nuts and berries;a cherry pie;jam and toast;
strawberries;a pot of honey;oat cookies;a pumpkin pie;grapes;roasted nuts;rice and beans;noodles;a lemon cake"""
FOODS = [f.strip() for f in FOODS.split(";")]

HELPERS = ["wise old owl", "kind old turtle", "tall gray horse", "gentle old bear", "friendly farmer", "quiet gray goose",
           "big brown dog", "little blue bird", "clever old crow", "kind old woman", "friendly sailor", "old gray donkey",
           "gentle deer", "white swan", "busy beaver", "round little mole", "tall heron", "smiling baker"]

SMALL = ["bee", "ant", "mouse", "bird", "butterfly", "snail", "ladybug", "beetle", "frog", "kitten", "duckling", "caterpillar",
         "lizard", "baby turtle", "baby bird", "moth", "worm", "chick", "bunny", "little fish"]

SKILLS = [("swim", "swimming", "in the lake"), ("ride a bicycle", "riding", "on the quiet road"), ("dance", "dancing", "in the garden"),
          ("whistle", "whistling", "on the hill"), ("play the drum", "drumming", "in the barn"), ("skate", "skating", "on the frozen pond"),
          ("climb", "climbing", "on the old apple tree"), ("sing", "singing", "by the window"), ("read", "reading", "under the lamp"),
          ("draw", "drawing", "at the wooden table"), ("jump over the stream", "jumping", "by the stream"), ("bake bread", "baking", "in the kitchen"),
          ("row a boat", "rowing", "on the calm lake"), ("fly a kite", "running with the kite", "in the windy field"),
          ("juggle", "juggling", "behind the house"), ("tie a knot", "tying knots", "on the steps")]

COLORS = "red blue green yellow orange purple pink white brown golden silver".split()
FAMILY = ["mother", "father", "grandmother", "grandfather", "mother", "mother"]
