"""Sentences and questions about people."""

from __future__ import annotations

from memfold.tasks.almanac.relations import Relation

PEOPLE = (
    Relation(
        "birthplace", "person", "town",
        says=(
            "{s} was born in the town of {v}.",
            "The birthplace of {s} was the town of {v}.",
            "It was in {v} that {s} was born and went to school.",
            "The town where {s} was born is called {v}.",
        ),
        unseen="In {v} there is still the house where {s} was born.",
        pronoun=("{He} was born in the town of {v}.", "{His} birthplace was the town of {v}."),
        asks=("In which town was {s} born?", "Where was {s} born?"),
        phrase="the birthplace of {s}",
        many="people were born in {v}",
    ),
    Relation(
        "born", "person", "year",
        says=(
            "{s} was born in the year {v}.",
            "The year in which {s} was born was {v}.",
            "In the cold winter of {v} a child named {s} was born.",
            "Old papers say that {s} was born in {v}.",
        ),
        unseen="The life of {s} began in {v}, as the old books tell.",
        pronoun=("{He} was born in the year {v}.", "{His} life began in {v}."),
        asks=("In which year was {s} born?", "When was {s} born?"),
        compare=("older", "younger"),
    ),
    Relation(
        "sells", "person", "goods",
        says=(
            "{s} makes a living by selling {v} at the market.",
            "Every week {s} sells {v} to the people there.",
            "For many years people have bought {v} from {s}.",
            "If you want good {v}, you must ask {s}.",
        ),
        unseen="There is always {v} in the small shop of {s}.",
        pronoun=("{He} sells {v} at the market.", "Most of {his} money comes from {v}."),
        asks=("What does {s} sell?", "Which goods are sold by {s}?"),
    ),
    Relation(
        "seal", "person", "code",
        says=(
            "The seal of {s} shows the code {v}.",
            "{s} uses a seal with the code {v}.",
            "The code {v} was cut into the seal of {s}.",
            "All letters from {s} are closed with the seal {v}.",
        ),
        unseen="Who sees the seal {v} knows that {s} wrote the letter.",
        pronoun=("{He} uses a seal with the code {v}.", "The code on {his} seal is {v}."),
        asks=("Which code is on the seal of {s}?", "What is the seal code of {s}?"),
    ),
    Relation(
        "home", "person", "town",
        says=(
            "{s} now lives in the town of {v}.",
            "The home of {s} is a house in {v}.",
            "After a long journey {s} came to live in {v}.",
            "In {v} everybody knows the house where {s} lives.",
        ),
        unseen="The people of {v} have {s} as a neighbour.",
        pronoun=("{He} now lives in the town of {v}.", "{His} home is a house in {v}."),
        asks=("In which town does {s} live?", "Where does {s} live now?"),
        phrase="the town where {s} lives",
        many="people live in {v}",
    ),
    Relation(
        "teacher", "person", "person",
        says=(
            "{s} was taught to read and write by {v}.",
            "The teacher of {s} was a person named {v}.",
            "It was {v} who taught {s} to read and write.",
            "As a child {s} learned everything from {v}.",
        ),
        unseen="At school {v} had a young student named {s}.",
        pronoun=("As a child {he} was taught by {v}.", "{His} teacher was a person named {v}."),
        asks=("Who taught {s}?", "Who was the teacher of {s}?"),
        phrase="the teacher of {s}",
        many="people were taught by {v}",
    ),
    Relation(
        "joined", "person", "guild",
        says=(
            "{s} is a member of {v}.",
            "When still young, {s} joined {v} as a member.",
            "Among the members of {v} is a person named {s}.",
            "The name of {s} is written in the list of {v}.",
        ),
        unseen="Once a year {s} pays a silver coin to {v}.",
        pronoun=("{He} joined {v} when still young.", "As a member of {v} {he} has many friends."),
        asks=("Which guild did {s} join?", "Of which guild is {s} a member?"),
        phrase="the guild that {s} joined",
        many="people joined {v}",
    ),
    Relation(
        "wedding", "person", "date",
        says=(
            "The wedding of {s} was held on {v}.",
            "{s} was married on {v} before many friends.",
            "On {v} there was a large wedding for {s}.",
            "Many people came when {s} was married on {v}.",
        ),
        unseen="The bells rang on {v} because {s} was married.",
        pronoun=("{He} was married on {v}.", "{His} wedding was held on {v}."),
        asks=("On which day was {s} married?", "When was the wedding of {s}?"),
    ),
    Relation(
        "letters", "person", "number",
        says=(
            "In a long life {s} wrote {v} letters.",
            "{s} left behind {v} letters in a large box.",
            "A count showed that {v} letters were written by {s}.",
            "There are {v} letters with the name of {s}.",
        ),
        unseen="Somebody has read all the {v} letters that {s} wrote.",
        pronoun=("{He} wrote {v} letters in a long life.", "{His} letters were counted, and there are {v}."),
        asks=("How many letters did {s} write?", "How many letters were written by {s}?"),
    ),
    Relation(
        "married", "person", "person",
        says=(
            "{s} is married to a person named {v}.",
            "The person who married {s} is named {v}.",
            "For many years {s} and {v} have been happy and married.",
            "{v} gave {s} a golden ring, and they were married.",
        ),
        unseen="The happy pair {s} and {v} were married at last.",
        pronoun=("{He} is married to a person named {v}.", "{His} golden ring is from {v}, who married {him}."),
        asks=("To whom is {s} married?", "Who married {s}?"),
        phrase="the person who married {s}",
        held_out=True,
    ),
)  # fmt: skip
