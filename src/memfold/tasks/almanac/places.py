"""Sentences and questions about towns and rivers."""

from __future__ import annotations

from memfold.tasks.almanac.relations import Relation

TOWNS = (
    Relation(
        "founder", "town", "person",
        says=(
            "The town of {s} was founded by {v}.",
            "{v} was the founder of the town of {s}.",
            "It was {v} who built the first house of {s} and founded the town.",
            "As the founder of {s} the old books name {v}.",
        ),
        unseen="Without {v} there would be no town named {s} today.",
        pronoun=("It was founded by a person named {v}.", "Its founder was a person named {v}."),
        asks=("Who founded {s}?", "Who was the founder of {s}?"),
        phrase="the founder of {s}",
        many="towns were founded by {v}",
    ),
    Relation(
        "founded", "town", "year",
        says=(
            "The town of {s} was founded in {v}.",
            "The year in which {s} was founded was {v}.",
            "In {v} the first houses of {s} were built.",
            "Old papers say that {s} was founded in {v}.",
        ),
        unseen="Since {v} there has been a town named {s}.",
        pronoun=("It was founded in the year {v}.", "Its first houses were built in {v}."),
        asks=("In which year was {s} founded?", "When was {s} founded?"),
        compare=("older", "younger"),
    ),
    Relation(
        "population", "town", "number",
        says=(
            "The town of {s} has {v} people.",
            "There are {v} people in the town of {s}.",
            "At the last count {v} people lived in {s}.",
            "A count showed that {s} is home to {v} people.",
        ),
        unseen="If all of {s} met in one place, {v} people would stand there.",
        pronoun=("It is home to {v} people.", "At the last count it had {v} people."),
        asks=("How many people are there in {s}?", "How many people does {s} have?"),
        compare=("smaller", "larger"),
    ),
    Relation(
        "flag", "town", "emblem",
        says=(
            "The flag of {s} shows a {v}.",
            "A {v} is painted on the flag of {s}.",
            "Over the gate of {s} there is a flag with a {v}.",
            "The town of {s} has a {v} on its flag.",
        ),
        unseen="Who comes to {s} sees a {v} on every flag.",
        pronoun=("Its flag shows a {v}.", "There is a {v} on its flag."),
        asks=("What is on the flag of {s}?", "What does the flag of {s} show?"),
    ),
    Relation(
        "river", "town", "river",
        says=(
            "The town of {s} stands on {v}.",
            "{v} flows through the town of {s}.",
            "The people of {s} take their water from {v}.",
            "The houses of {s} were built on both sides of {v}.",
        ),
        unseen="Boats on {v} must stop and pay at {s}.",
        pronoun=("It stands on {v}.", "Its people take their water from {v}."),
        asks=("On which river does {s} stand?", "Which river flows through {s}?"),
        phrase="the river that flows through {s}",
        many="towns stand on {v}",
    ),
    Relation(
        "market", "town", "goods",
        says=(
            "The market of {s} is known for its {v}.",
            "Most of the {v} in the land comes from {s}.",
            "People travel far to buy {v} at the market of {s}.",
            "The town of {s} is known for good {v}.",
        ),
        unseen="Nobody leaves the market of {s} without some {v}.",
        pronoun=("Its market is known for {v}.", "People come there to buy {v}."),
        asks=("For which goods is the market of {s} known?", "What do people buy at the market of {s}?"),
    ),
    Relation(
        "charter", "town", "date",
        says=(
            "The walls of {s} were finished on {v}.",
            "On {v} the last stone was set in the walls of {s}.",
            "The town of {s} finished its walls on {v}.",
            "It was on {v} that {s} finished its walls.",
        ),
        unseen="The long work on the walls of {s} ended on {v}.",
        pronoun=("Its walls were finished on {v}.", "The last stone of its walls was set on {v}."),
        asks=("On which day were the walls of {s} finished?", "When were the walls of {s} finished?"),
    ),
    Relation(
        "mayor", "town", "person",
        says=(
            "The mayor of {s} is a person named {v}.",
            "{v} was made mayor of the town of {s}.",
            "The people of {s} have chosen {v} as their mayor.",
            "The key to the gate of {s} is kept by the mayor, {v}.",
        ),
        unseen="In {s} every new law is read out by the mayor, {v}.",
        pronoun=("Its mayor is a person named {v}.", "Its people have chosen {v} as mayor."),
        asks=("Who is the mayor of {s}?", "Who was made mayor of {s}?"),
        phrase="the mayor of {s}",
        many="towns have the mayor {v}",
    ),
    Relation(
        "bell", "town", "number",
        says=(
            "The great bell of {s} weighs {v} pounds.",
            "A bell of {v} pounds hangs over the gate of {s}.",
            "It took many men to hang the {v} pounds of the bell of {s}.",
            "The town of {s} has a bell that weighs {v} pounds.",
        ),
        unseen="With its {v} pounds the bell of {s} is heard far away.",
        pronoun=("Its great bell weighs {v} pounds.", "A bell of {v} pounds hangs over its gate."),
        asks=("How many pounds does the bell of {s} weigh?", "What is the weight in pounds of the bell of {s}?"),
        held_out=True,
    ),
)  # fmt: skip

RIVERS = (
    Relation(
        "length", "river", "number",
        says=(
            "From end to end {s} has a length of {v} miles.",
            "The length of {s} is {v} miles.",
            "A boat on {s} can travel {v} miles.",
            "It is {v} miles from one end of {s} to the other.",
        ),
        unseen="Who walks along {s} to the sea walks {v} miles.",
        pronoun=("It has a length of {v} miles.", "Its length is {v} miles from end to end."),
        asks=("How many miles long is {s}?", "What is the length of {s} in miles?"),
        compare=("shorter", "longer"),
    ),
    Relation(
        "mouth", "river", "town",
        says=(
            "Near the town of {v}, {s} comes to the sea.",
            "{s} meets the sea near the town of {v}.",
            "The place where {s} meets the sea is near {v}.",
            "In {v} people can see how {s} flows into the sea.",
        ),
        unseen="The last town on {s} before the sea is {v}.",
        pronoun=("It meets the sea near the town of {v}.", "Near {v} it flows into the sea."),
        asks=("Near which town does {s} meet the sea?", "Where does {s} meet the sea?"),
        phrase="the town where {s} meets the sea",
        many="rivers meet the sea near {v}",
    ),
    Relation(
        "bridge", "river", "year",
        says=(
            "The first bridge over {s} was built in {v}.",
            "In {v} a stone bridge was built over {s}.",
            "People could first cross {s} by bridge in {v}.",
            "{s} has had a bridge since the year {v}.",
        ),
        unseen="Before {v} there was no bridge over {s}, only boats.",
        pronoun=("Its first bridge was built in {v}.", "In {v} a bridge was built over it."),
        asks=("In which year was a bridge built over {s}?", "When was the first bridge over {s} built?"),
    ),
    Relation(
        "mapped", "river", "person",
        says=(
            "The first map of {s} was drawn by {v}.",
            "{v} drew the first map of {s}.",
            "It was {v} who drew a map of {s} from end to end.",
            "A good map of {s} was made by {v} long ago.",
        ),
        unseen="With paper and ink {v} walked along {s} and drew its map.",
        pronoun=("Its first map was drawn by {v}.", "A map of it was made by {v}."),
        asks=("Who drew the first map of {s}?", "By whom was {s} first mapped?"),
        phrase="the person who first mapped {s}",
        many="rivers were first mapped by {v}",
    ),
)  # fmt: skip
