"""What the small model knows: a handful of true, simple sentences about everyday things. Written for this project, MIT OR Apache-2.0."""

# thing | first sentence | more, one of which or two are said
WHAT = """
the moon|The moon is a big ball of rock that goes around the Earth.|It shines at night because the light of the sun falls on it.|It looks round on some nights and thin like a boat on others.
the sun|The sun is a very big and very hot star.|It gives us light and keeps us warm.|The Earth goes around the sun once every year.
a star|A star is a huge ball of hot gas that shines far away in space.|Our sun is a star, too.|Stars look small because they are so far away.
the Earth|The Earth is the planet we live on.|It is round like a ball, and most of it is covered with water.|It goes around the sun.
a planet|A planet is a big round world that goes around a star.|The Earth is a planet.|Mars and Venus are planets, too.
a cloud|A cloud is made of many tiny drops of water.|When the drops grow heavy, they fall down as rain.|The wind moves the clouds across the sky.
rain|Rain is water that falls from the clouds in drops.|Plants need rain to grow.|After the rain you can sometimes see a rainbow.
snow|Snow is frozen water that falls from the clouds.|Every flake of snow has six little arms.|When it gets warm, snow melts and turns into water.
ice|Ice is water that is so cold that it is hard.|It melts when it gets warm.|Ice floats on water.
wind|Wind is air that moves.|You cannot see the wind, but you can feel it.|It can push a boat and lift a kite.
a rainbow|A rainbow is a band of colors in the sky.|You can see it when the sun shines through drops of rain.|Its colors are red, orange, yellow, green, blue, and purple.
thunder|Thunder is the loud sound that lightning makes.|We see the light first and hear the sound a little later.
a storm|A storm is bad weather with strong wind and rain.|In a storm it is good to stay inside.
the sea|The sea is a very big body of salt water.|Fish, whales, and crabs live in it.|It has waves because the wind blows over it.
the sky|The sky is the air above us, and all the space behind it.|In the day it looks blue, and at night it is dark and full of stars.
a river|A river is water that flows over the land to the sea.|It often starts as a little stream in the hills.|Fish live in rivers.
a lake|A lake is a large piece of water with land all around it.|You can swim or row a boat on it.
a mountain|A mountain is a very high hill of rock.|It is often cold at the top, and there may be snow.
an island|An island is land with water all around it.|You need a boat or a bridge to get there.
a forest|A forest is a place with a lot of trees.|Deer, foxes, owls, and many other animals live there.
a desert|A desert is a very dry land where it almost never rains.|Many deserts are full of sand.|Camels can live there.
a volcano|A volcano is a mountain with hot melted rock inside.|Sometimes the hot rock comes out at the top.
a tree|A tree is a tall plant with a trunk of wood.|It has roots in the ground and leaves on its branches.|Birds build their nests in trees.
a flower|A flower is the pretty part of a plant.|It makes seeds, and bees visit it to drink.|Many flowers smell sweet.
a seed|A seed is a small thing from which a new plant grows.|It needs water, earth, and sun.
grass|Grass is a small green plant with thin leaves.|Cows, sheep, and horses eat it.
an apple|An apple is a round fruit that grows on a tree.|It can be red, green, or yellow.|It tastes sweet and is good for you.
a banana|A banana is a long yellow fruit.|You take off the skin before you eat it.|Monkeys like bananas, too.
bread|Bread is a food made from flour and water.|The baker bakes it in a hot oven.|Warm bread smells very good.
milk|Milk is a white drink that comes from cows and goats.|You can make butter and cheese from it.
cheese|Cheese is a food made from milk.|It can be soft or hard.
honey|Honey is a sweet food that bees make.|They make it from the juice of flowers.
a bee|A bee is a small insect that flies from flower to flower.|Bees make honey.|They live together in a hive.
an ant|An ant is a tiny insect that lives with many others.|Ants are very strong and work together.
a butterfly|A butterfly is an insect with big, colorful wings.|First it is a caterpillar, and then it changes.
a spider|A spider is a small animal with eight legs.|Many spiders make webs to catch flies.
a fish|A fish is an animal that lives in water.|It has fins to swim with.|It takes air from the water.
a whale|A whale is a very big animal that lives in the sea.|It comes up to breathe air.|The blue whale is the biggest animal of all.
a dolphin|A dolphin is a clever animal that lives in the sea.|It breathes air and loves to jump.
a shark|A shark is a big fish with many sharp teeth.|It lives in the sea.
a frog|A frog is a small animal that lives near water.|It can jump far and swim well.|Baby frogs are called tadpoles.
a bird|A bird is an animal with feathers and two wings.|Most birds can fly.|Birds lay eggs in a nest.
an owl|An owl is a bird that is awake at night.|It has big eyes and can fly without a sound.
a penguin|A penguin is a black and white bird that cannot fly.|It lives where it is very cold and swims very well.
a duck|A duck is a bird that likes to swim.|It says quack.|Baby ducks are called ducklings.
a hen|A hen is a bird that lives on a farm.|It lays eggs.|Baby hens are called chicks.
a fox|A fox is a wild animal with red fur and a thick tail.|It lives in a den and hunts at night.|Foxes are very clever.
a rabbit|A rabbit is a soft animal with long ears.|It hops and eats grass and carrots.|It lives in a hole in the ground.
a mouse|A mouse is a very small animal with a long tail.|It eats seeds and likes cheese.
a cat|A cat is a soft animal that many people have at home.|It says meow and likes to sleep.|It can see well at night.
a dog|A dog is an animal that likes people very much.|It barks and likes to run and play.|Dogs can smell very well.
a horse|A horse is a big, strong animal that can run fast.|People can ride on its back.|It eats grass and hay.
a cow|A cow is a big animal that lives on a farm.|It eats grass and gives milk.|It says moo.
a sheep|A sheep is an animal with thick, soft wool.|People make warm clothes from the wool.|Baby sheep are called lambs.
a pig|A pig is a farm animal with a round nose.|It likes to roll in the mud.|Pigs are quite smart.
a goat|A goat is an animal that can climb very well.|It has horns and gives milk.
a bear|A bear is a big, strong animal with thick fur.|It eats berries, fish, and honey.|Many bears sleep all winter.
a wolf|A wolf is a wild animal that looks like a big dog.|Wolves live in a group and howl at night.
a lion|A lion is a big wild cat.|The father lion has long hair around his head.|Lions live in Africa.
a tiger|A tiger is a big wild cat with black stripes.|It can swim well and hunts alone.
an elephant|An elephant is the biggest animal on land.|It has a long trunk and big ears.|It uses the trunk to drink and to pick things up.
a giraffe|A giraffe is a very tall animal with a long neck.|It eats leaves from high trees.
a monkey|A monkey is a clever animal that lives in trees.|It uses its hands and tail to climb.
a kangaroo|A kangaroo is an animal that jumps on two strong legs.|It carries its baby in a pocket.|It lives in Australia.
a turtle|A turtle is a slow animal with a hard shell.|It can hide inside its shell.|Turtles can live for a very long time.
a snail|A snail is a slow little animal with a house on its back.|It likes wet days and eats leaves.
a snake|A snake is a long animal without legs.|It moves on its belly.
a squirrel|A squirrel is a small animal with a thick tail.|It lives in trees and hides nuts for the winter.
a hedgehog|A hedgehog is a small animal with spines on its back.|When it is afraid, it rolls into a ball.
a dinosaur|A dinosaur is an animal that lived a very long time ago.|Some dinosaurs were bigger than a house.|There are none left today, but birds are their family.
a dragon|A dragon is a big animal from old stories.|It can fly and blow fire, but it is not real.
a robot|A robot is a machine that can do some work by itself.|Some robots build cars, and some clean the floor.
a computer|A computer is a machine that works with numbers and words.|I run on a computer, too.|It does what a program tells it to do.
a car|A car is a machine with four wheels and a motor.|It takes people from one place to another.
a train|A train is a long row of wagons that runs on rails.|It can carry many people.
a boat|A boat is a thing that floats and carries people on water.|Some boats have sails, and some have a motor.
an airplane|An airplane is a machine with wings that flies in the sky.|It can take people very far.
a bicycle|A bicycle is a thing with two wheels that you ride with your legs.|It does not need a motor.
a bridge|A bridge is a road over a river or a valley.|It can be made of wood, stone, or steel.
a house|A house is a building where people live.|It has walls, a roof, a door, and windows.
a school|A school is a place where children learn.|They learn to read, to write, and to count there.
a book|A book is a lot of pages with words and pictures.|You can read stories in it.
a story|A story tells what happened to somebody.|It can be true, or someone can make it up.|I like stories very much.
a poem|A poem is a short text that sounds a little like a song.|The ends of the lines often rhyme.
music|Music is sound that is nice to hear.|You can make music with your voice, a drum, or a flute.
a friend|A friend is somebody you like and trust.|Friends help each other and have fun together.
love|Love is when you care about somebody very much.|It makes people feel warm and safe.
a dream|A dream is a story that your head makes when you sleep.|Some dreams are nice, and some are strange.
time|Time is what a clock shows.|It goes on and on and never stops.
winter|Winter is the coldest time of the year.|The days are short, and sometimes there is snow.
summer|Summer is the warmest time of the year.|The days are long, and many people go swimming.
spring|Spring is the time when the flowers come back.|The days get warmer, and birds build nests.
autumn|Autumn is the time when the leaves turn red and yellow and fall down.|It comes after summer.
the heart|The heart is the part of the body that moves the blood.|You can feel it beat in your chest.
the brain|The brain is the part of the body that thinks.|It is inside the head.
a doctor|A doctor is a person who helps sick people.|Doctors work in hospitals and in small offices.
a teacher|A teacher is a person who helps others learn.|Most teachers work in a school.
a farmer|A farmer is a person who grows food and keeps animals.|Farmers get up very early.
a baker|A baker is a person who bakes bread and cakes.|Bakers start their work while others sleep.
fire|Fire is hot and bright and burns wood.|It can keep you warm, but you must be careful with it.
water|Water is what falls as rain and fills the rivers and the sea.|All animals and plants need water.|You should drink some every day.
air|Air is all around us, but we cannot see it.|We breathe it in and out.
a shadow|A shadow is a dark place where something stops the light.|When you move, your shadow moves, too.
gold|Gold is a yellow metal that shines.|People make rings and crowns from it.
a magnet|A magnet is a piece of metal that pulls iron to it.|It can hold a picture on a metal door.
a clock|A clock is a thing that shows the time.|It has two hands or shows numbers.
money|Money is what people use to buy things.|It can be coins or paper.
a king|A king is a man who rules a country.|In stories he lives in a castle and wears a crown.
a pirate|A pirate is a person who takes things from ships at sea.|In stories, pirates look for treasure.
a castle|A castle is a big old house of stone with towers.|Kings and queens lived in castles long ago.
a kite|A kite is a toy that flies in the wind.|You hold it by a long string.
a garden|A garden is a place where people grow flowers or food.|It needs water, sun, and a little work.
a language model|A language model is a program that has learned how words go together.|It writes one small piece of text after another.|I am a very small one.
""".strip().splitlines()

WHY = """
why is the sky blue|Sunlight has all colors in it, and the air sends the blue light in every direction. That is why the sky looks blue.
why do birds sing|Birds sing to find a friend and to say that a place is theirs.
why do leaves fall|In autumn the days get cold and short, so the trees let their leaves fall and rest.
why do we sleep|We sleep so that our body and our brain can rest and grow.
why is snow white|Snow is made of tiny bits of ice that send all the light back, so it looks white.
why do cats purr|Cats often purr when they feel safe and happy.
why do dogs bark|Dogs bark to talk to us and to other dogs. They may be happy, or they may want to warn us.
why does it rain|Water goes up into the air and makes clouds. When the drops in the clouds grow heavy, they fall down as rain.
why is the sea salty|The rivers carry a little salt from the rocks into the sea, and the salt stays there.
why do bees like flowers|Bees like flowers because they find sweet juice in them. They make honey from it.
why is it dark at night|At night our side of the Earth is turned away from the sun, so it is dark.
why do we have winter|The Earth leans a little. In winter our side leans away from the sun, so we get less light and it is cold.
why do stars twinkle|The light of the stars goes through moving air before we see it, so it seems to twinkle.
why do we eat|We eat because food gives our body the power to move, to grow, and to keep warm.
why do we cry|We cry when we are sad or hurt, and sometimes when we are very happy. It often helps a little.
why do bears sleep in winter|In winter there is little food, so bears sleep and live on the fat they have.
why do rabbits have long ears|Rabbits have long ears so that they can hear danger from far away.
why do giraffes have long necks|Their long necks help them eat leaves from high trees.
why do ducks not get wet|Ducks have oil on their feathers, so the water just rolls off.
why should i drink water|Your body needs water to work well. You lose some every day, so you have to drink.
why should I share|Sharing makes others happy, and they will want to share with you, too.
why should we be kind|Being kind makes other people feel good, and it makes you feel good, too.
how do fish breathe|Fish breathe with gills. The gills take air from the water.
how do birds fly|Birds move their wings and push the air down, and so they go up. Their bones are very light.
how do plants grow|Plants grow from seeds. They need water, light, air, and good earth.
how do bees make honey|Bees collect sweet juice from flowers and bring it to the hive. There it slowly turns into honey.
how does a boat float|A boat floats because it is lighter than the water it pushes away.
how do you make bread|You mix flour, water, salt, and yeast. Then you let it rest and bake it in a hot oven.
how do you make tea|You boil water, put the tea into a cup, and pour the hot water over it. Then you wait a little.
how do you make soup|You cut some vegetables, put them in a pot with water and salt, and cook them until they are soft.
how do you make a sandwich|You take two slices of bread and put cheese, tomato, or something you like between them.
how do I make a friend|Say hello, smile, and ask what the other one likes. Then do something nice together.
how can I sleep better|Go to bed at the same time every day, turn off the bright lights, and think of something nice.
how do I plant a seed|Make a small hole in the earth, put the seed in, cover it, and give it some water. Then wait.
how do I say sorry|Look at the other one, say what you did wrong, and say that you are sorry. Then try to make it better.
how many legs does a spider have|A spider has eight legs.
how many legs does a dog have|A dog has four legs.
how many legs does a bird have|A bird has two legs.
how many legs does an ant have|An ant has six legs.
how many days are in a week|There are seven days in a week.
how many months are in a year|There are twelve months in a year.
how many wheels does a car have|A car has four wheels.
how many wheels does a bicycle have|A bicycle has two wheels.
how many fingers do we have|We have ten fingers, five on each hand.
how many seasons are there|There are four seasons: spring, summer, autumn, and winter.
what are the seasons|The four seasons are spring, summer, autumn, and winter.
what are the days of the week|The days of the week are Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, and Sunday.
what are the colors of the rainbow|The colors of the rainbow are red, orange, yellow, green, blue, and purple.
what are the months of the year|The months are January, February, March, April, May, June, July, August, September, October, November, and December.
what day comes after Monday|Tuesday comes after Monday.
what day comes after Friday|Saturday comes after Friday.
can you count to ten|One, two, three, four, five, six, seven, eight, nine, ten.
count to five|One, two, three, four, five.
count to ten|One, two, three, four, five, six, seven, eight, nine, ten.
say the alphabet|A, B, C, D, E, F, G, H, I, J, K, L, M, N, O, P, Q, R, S, T, U, V, W, X, Y, Z.
where does the sun go at night|The sun does not go away. The Earth turns, and at night we are on the side that looks away from the sun.
where does rain come from|Rain comes from the clouds. They are made of tiny drops of water.
where do birds sleep|Most birds sleep in trees or bushes. Some sleep in a nest.
where do bees live|Bees live together in a hive.
where do fish live|Fish live in water: in the sea, in lakes, and in rivers.
where do penguins live|Most penguins live in the cold south of the world.
where do lions live|Most lions live in the wide, dry grass lands of Africa.
where do bears live|Bears live in forests and mountains, and polar bears live on the ice in the north.
where does milk come from|Milk comes from cows, goats, and sheep.
where do apples grow|Apples grow on apple trees.
what is the biggest animal|The biggest animal of all is the blue whale.
what is the fastest animal|The fastest animal on land is the cheetah.
what is the tallest animal|The tallest animal is the giraffe.
which animal is the slowest|Snails and turtles are very slow animals.
what animals can fly|Birds, bats, bees, and butterflies can fly.
what animals live on a farm|Cows, pigs, sheep, goats, horses, hens, and ducks live on a farm.
what animals live in the sea|Fish, whales, dolphins, crabs, and seals live in the sea.
what animals live in the forest|Deer, foxes, rabbits, owls, bears, and squirrels live in the forest.
what should I do when it rains|You can read a book, draw a picture, or put on boots and jump in the puddles.
what can I do today|You could read a book, draw a picture, take a walk, or call a friend.
i am bored|You could draw a picture, take a walk, or build something. Or I can tell you a story.
what should I eat|How about some fruit, a warm soup, or bread with cheese?
what should i draw|You could draw a fox in the snow, or a house with a tree and a big sun.
""".strip().splitlines()

SOUNDS = {"cow": "moo", "dog": "woof", "cat": "meow", "duck": "quack", "sheep": "baa", "pig": "oink", "horse": "neigh", "lion": "roar",
          "frog": "ribbit", "owl": "hoo", "hen": "cluck", "mouse": "squeak", "bee": "buzz", "snake": "hiss", "wolf": "howl", "bird": "tweet"}
EATS = {"rabbit": "grass, leaves, and carrots", "fox": "mice, berries, and insects", "cow": "grass and hay", "horse": "grass, hay, and apples",
        "bear": "berries, fish, and honey", "cat": "meat and fish", "dog": "meat and dog food", "mouse": "seeds and grain", "owl": "mice and insects",
        "bee": "the sweet juice of flowers", "frog": "flies and other insects", "duck": "water plants, seeds, and insects", "monkey": "fruit, leaves, and nuts",
        "elephant": "grass, leaves, and fruit", "lion": "meat", "giraffe": "leaves from high trees", "panda": "bamboo", "penguin": "fish",
        "squirrel": "nuts and seeds", "hedgehog": "worms, snails, and insects", "turtle": "leaves and small animals", "sheep": "grass", "goat": "grass and leaves",
        "hen": "corn and seeds", "pig": "nearly everything", "wolf": "meat", "spider": "flies", "caterpillar": "leaves", "whale": "fish and tiny sea animals"}
COLOR_OF = {"grass": "green", "the sky": "blue", "snow": "white", "a banana": "yellow", "the sun": "yellow", "a carrot": "orange", "a fox": "red and white",
            "an elephant": "gray", "a leaf": "green, and red or yellow in autumn", "milk": "white", "a polar bear": "white", "a frog": "green",
            "a strawberry": "red", "a lemon": "yellow", "the sea": "blue", "a pumpkin": "orange", "coal": "black", "a cherry": "red", "a plum": "purple"}
BABIES = {"dog": "puppy", "cat": "kitten", "cow": "calf", "horse": "foal", "sheep": "lamb", "pig": "piglet", "duck": "duckling", "hen": "chick",
          "bear": "cub", "goat": "kid", "frog": "tadpole", "deer": "fawn", "kangaroo": "joey", "lion": "cub", "fox": "cub"}
OPPOSITES = {"big": "small", "hot": "cold", "day": "night", "happy": "sad", "fast": "slow", "up": "down", "old": "young", "new": "old", "tall": "short",
             "wet": "dry", "light": "dark", "loud": "quiet", "hard": "soft", "full": "empty", "open": "closed", "good": "bad", "left": "right", "high": "low",
             "thick": "thin", "strong": "weak", "clean": "dirty", "early": "late", "long": "short", "near": "far", "rich": "poor", "sweet": "sour",
             "brave": "afraid", "first": "last", "inside": "outside", "black": "white", "winter": "summer", "yes": "no", "begin": "end", "win": "lose"}

# Things it cannot know or do; `[a|b]` chooses.
UNKNOWN = """
what is the capital of [France|Spain|Japan|Italy|Brazil|Germany|Canada|Egypt]
who is the president[| of America| of France]
who won the [game|match|election|world cup|race] [yesterday|last year|today]
what is the weather [today|tomorrow|like|like today|in Paris|in London]
what time is it
what day is it today
write a [python|rust|computer] program[| for me| that sorts a list]
fix my code
solve this equation
what is [seven|twelve|nine|twenty|forty] times [six|eight|eleven|nine]
what is [12|7|35|120|8] [plus|minus|times] [9|15|4|30|11]
who wrote [Hamlet|this book|the Bible|Faust]
when did the war [begin|end]
what is quantum [physics|mechanics|computing]
explain [relativity|inflation|calculus|photosynthesis|democracy|blockchain]
translate this into [French|German|Spanish]
how tall is the [Eiffel Tower|highest mountain]
how old is the universe
what is the meaning of life
what is the price of [gold|milk|a house|bitcoin]
search the internet[| for me]
book a flight[| for me| to Rome]
send an email[| to my boss]
who is [Einstein|Newton|Shakespeare|Mozart|Napoleon|Taylor Swift]
what happened in [1945|1789|2001|history]
what is the best [phone|laptop|movie|stock]
give me medical advice
what is the distance to the moon
how many people live in [London|the world|China|Paris]
what is the square root of [two|9|100]
what does the news say
summarize this article
tell me about [politics|history|chemistry|the economy|the law]
what is an atom bomb
who invented the [telephone|computer|wheel|radio]
""".strip().splitlines()
