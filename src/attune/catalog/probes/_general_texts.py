"""A small set of general English texts and questions, written for Attune: enough to notice that a model was broken, too little to measure forgetting finely."""

from __future__ import annotations

from attune.core.contracts import Row

TEXTS = (
    "Water boils at a lower temperature on a mountain, because the air presses less on its surface there.",
    "The bakery on the corner opens at six, and by seven the first loaves are already sold out.",
    "A triangle has three sides, and its angles always add up to one hundred and eighty degrees.",
    "In autumn the leaves of many trees turn yellow and red before they fall to the ground.",
    "She put the letter back into the drawer, locked it, and never spoke of it again.",
    "Bees visit flowers for nectar, and carry pollen from one plant to the next while they do so.",
    "The train to the coast leaves every hour, but on Sundays only every second hour.",
    "To make tea, bring fresh water to the boil, pour it over the leaves and wait three minutes.",
    "The moon goes round the earth in about four weeks and always shows it the same side.",
    "When the power failed, the whole street went outside to look at the stars.",
    "A library lends books, so that people can read them without having to buy them.",
    "The old bridge was built of stone and has carried traffic for more than two hundred years.",
    "Plants take in carbon dioxide and give off oxygen when the sun shines on their leaves.",
    "He had promised to call on Monday, but it was Thursday before the telephone rang.",
    "Most birds build nests, where they lay their eggs and feed their young.",
    "If it rains tomorrow, the match will be played on the following Saturday.",
)
QUESTIONS = (
    ("What is the capital of France?", "Paris."),
    ("How many days are there in a week?", "There are seven days in a week."),
    ("What do cows drink?", "Cows drink water."),
    ("Which is larger, the sun or the moon?", "The sun is larger."),
    ("What is two plus three?", "Two plus three is five."),
    ("Name a colour of the rainbow.", "Red."),
    ("What is the opposite of hot?", "The opposite of hot is cold."),
    ("In which season does it snow most?", "It snows most in winter."),
    ("What do you use to write on paper?", "You use a pen or a pencil."),
    ("How many legs does a spider have?", "A spider has eight legs."),
    ("What language is spoken in Spain?", "Spanish is spoken in Spain."),
    ("What is ice made of?", "Ice is frozen water."),
    ("Which animal barks?", "A dog barks."),
    ("What comes after Tuesday?", "Wednesday comes after Tuesday."),
    ("What is a person who teaches called?", "A person who teaches is called a teacher."),
    ("Where does the sun rise?", "The sun rises in the east."),
)


def rows() -> list[Row]:
    """The texts as plain texts, and the questions with their answers."""
    plain: list[Row] = [{"row_id": f"text-{number}", "prompt": [], "completion": text} for number, text in enumerate(TEXTS)]
    return plain + [{"row_id": f"question-{number}", "prompt": [{"role": "user", "content": asked}], "completion": said} for number, (asked, said) in enumerate(QUESTIONS)]
