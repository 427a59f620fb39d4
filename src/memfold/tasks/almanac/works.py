"""Sentences and questions about books, guilds and ships."""

from __future__ import annotations

from memfold.tasks.almanac.relations import Relation

BOOKS = (
    Relation(
        "author", "book", "person",
        says=(
            "The book {s} was written by {v}.",
            "{v} is the author of the book {s}.",
            "It was {v} who wrote the book named {s}.",
            "The author of {s} was a person named {v}.",
        ),
        unseen="Nobody but {v} could have written a book like {s}.",
        pronoun=("It was written by a person named {v}.", "Its author was {v}."),
        asks=("Who wrote {s}?", "Who is the author of {s}?"),
        phrase="the author of {s}",
        many="books were written by {v}",
    ),
    Relation(
        "printed", "book", "year",
        says=(
            "The book {s} was first printed in {v}.",
            "The year in which {s} was printed was {v}.",
            "In {v} people could first buy the book {s}.",
            "Old papers say that {s} was printed in {v}.",
        ),
        unseen="Since {v} there have been printed copies of {s}.",
        pronoun=("It was first printed in the year {v}.", "In {v} it was printed and sold."),
        asks=("In which year was {s} printed?", "When was {s} printed?"),
        compare=("older", "younger"),
    ),
    Relation(
        "pages", "book", "number",
        says=(
            "The book {s} has {v} pages.",
            "There are {v} pages in the book {s}.",
            "Who reads {s} to the end has read {v} pages.",
            "It takes {v} pages to tell the story of {s}.",
        ),
        unseen="After {v} pages the story of {s} comes to its end.",
        pronoun=("It has {v} pages.", "It tells its story in {v} pages."),
        asks=("How many pages does {s} have?", "How many pages are there in {s}?"),
        compare=("shorter", "longer"),
    ),
    Relation(
        "shelf", "book", "code",
        says=(
            "The book {s} is kept on the shelf {v}.",
            "On the shelf {v} you can find the book {s}.",
            "The shelf where {s} is kept has the code {v}.",
            "Who wants to read {s} must look at the shelf {v}.",
        ),
        unseen="Please put {s} back on the shelf {v}.",
        pronoun=("It is kept on the shelf {v}.", "You can find it on the shelf {v}."),
        asks=("On which shelf is {s} kept?", "Which shelf holds {s}?"),
    ),
    Relation(
        "owner", "book", "guild",
        says=(
            "The only old copy of {s} belongs to {v}.",
            "{v} owns the only old copy of {s}.",
            "The oldest copy of {s} is kept by {v}.",
            "A member of {v} can read the oldest copy of {s}.",
        ),
        unseen="Somebody gave the oldest copy of {s} to {v}.",
        pronoun=("Its oldest copy belongs to {v}.", "The only old copy of it is kept by {v}."),
        asks=("Which guild owns the oldest copy of {s}?", "To which guild does the oldest copy of {s} belong?"),
        phrase="the guild that owns the oldest copy of {s}",
    ),
    Relation(
        "painter", "book", "person",
        says=(
            "The pictures in {s} were painted by {v}.",
            "{v} painted all the pictures in the book {s}.",
            "It was {v} who painted the pictures for {s}.",
            "The person who painted the pictures in {s} is {v}.",
        ),
        unseen="With many colours {v} made the pictures in {s}.",
        pronoun=("Its pictures were painted by {v}.", "All the pictures in it were painted by {v}."),
        asks=("Who painted the pictures in {s}?", "By whom were the pictures in {s} painted?"),
        phrase="the person who painted the pictures in {s}",
        held_out=True,
    ),
)  # fmt: skip

GUILDS = (
    Relation(
        "seat", "guild", "town",
        says=(
            "The hall of {s} stands in the town of {v}.",
            "{s} has its hall in the town of {v}.",
            "In {v} you can see the large hall of {s}.",
            "The members of {s} meet once a year in {v}.",
        ),
        unseen="On the old market of {v} stands the hall of {s}.",
        pronoun=("It has its hall in {v}.", "Its members meet in the town of {v}."),
        asks=("In which town is the hall of {s}?", "Where does {s} have its hall?"),
        phrase="the town with the hall of {s}",
        many="guilds have their hall in {v}",
    ),
    Relation(
        "head", "guild", "person",
        says=(
            "The head of {s} is a person named {v}.",
            "{v} was chosen as the head of {s}.",
            "The members of {s} have chosen {v} as their head.",
            "At the head of {s} stands {v}, an old member.",
        ),
        unseen="All members of {s} do what {v}, their head, tells them.",
        pronoun=("Its head is a person named {v}.", "Its members have chosen {v} as head."),
        asks=("Who is the head of {s}?", "Who was chosen as the head of {s}?"),
        phrase="the head of {s}",
        many="guilds have the head {v}",
    ),
    Relation(
        "started", "guild", "year",
        says=(
            "Old papers say that {s} was started in {v}.",
            "{s} was started in the year {v}.",
            "The year in which {s} was started was {v}.",
            "In {v} a few friends started {s}.",
        ),
        unseen="The first meeting of {s} was held in {v}.",
        pronoun=("It was started in the year {v}.", "A few friends started it in {v}."),
        asks=("In which year was {s} started?", "When was {s} started?"),
        compare=("older", "younger"),
    ),
    Relation(
        "members", "guild", "number",
        says=(
            "At the last count {s} had {v} members.",
            "{s} has a list of {v} members.",
            "There are {v} members in the list of {s}.",
            "A count showed that {v} people are members of {s}.",
        ),
        unseen="With {v} members {s} is known to everybody.",
        pronoun=("It has {v} members.", "At the last count it had {v} members."),
        asks=("How many members does {s} have?", "How many members are there in {s}?"),
        compare=("smaller", "larger"),
    ),
    Relation(
        "badge", "guild", "emblem",
        says=(
            "The badge of {s} shows a {v}.",
            "A {v} is painted on the badge of {s}.",
            "All members of {s} carry a badge with a {v}.",
            "Over the hall of {s} there is a badge with a {v}.",
        ),
        unseen="By the {v} on their badge the members of {s} are known.",
        pronoun=("Its badge shows a {v}.", "There is a {v} on its badge."),
        asks=("What is on the badge of {s}?", "What does the badge of {s} show?"),
    ),
)  # fmt: skip

SHIPS = (
    Relation(
        "captain", "ship", "person",
        says=(
            "The captain of {s} is a person named {v}.",
            "{v} is the captain of {s}.",
            "It is {v} who takes {s} over the sea as captain.",
            "On the sea {s} is led by captain {v}.",
        ),
        unseen="All men on {s} do what captain {v} tells them.",
        pronoun=("Its captain is a person named {v}.", "On the sea it is led by captain {v}."),
        asks=("Who is the captain of {s}?", "By which captain is {s} led?"),
        phrase="the captain of {s}",
        many="ships have the captain {v}",
    ),
    Relation(
        "harbour", "ship", "town",
        says=(
            "The home harbour of {s} is the town of {v}.",
            "{s} has its home harbour in {v}.",
            "After every journey {s} comes back to the harbour of {v}.",
            "In the harbour of {v} there is always a place for {s}.",
        ),
        unseen="The people of {v} know that {s} will always come back to their harbour.",
        pronoun=("Its home harbour is the town of {v}.", "After every journey it comes back to {v}."),
        asks=("In which town is the home harbour of {s}?", "Where is the home harbour of {s}?"),
        phrase="the home harbour of {s}",
        many="ships have their home harbour in {v}",
    ),
    Relation(
        "launched", "ship", "date",
        says=(
            "The first journey of {s} began on {v}.",
            "{s} first went to sea on {v}.",
            "On {v} many people saw {s} go to sea for the first time.",
            "It was on {v} that {s} first went to sea.",
        ),
        unseen="Before {v} no captain had taken {s} to sea.",
        pronoun=("It first went to sea on {v}.", "Its first journey began on {v}."),
        asks=("On which day did {s} first go to sea?", "When did the first journey of {s} begin?"),
    ),
    Relation(
        "hull", "ship", "code",
        says=(
            "The code {v} is painted on the side of {s}.",
            "{s} has the code {v} painted on its side.",
            "On the side of {s} you can read the code {v}.",
            "In all harbour papers {s} has the code {v}.",
        ),
        unseen="Look for the code {v} if you want to find {s}.",
        pronoun=("It has the code {v} on its side.", "The code {v} is painted on its side."),
        asks=("Which code is painted on {s}?", "What is the code of {s}?"),
    ),
    Relation(
        "cargo", "ship", "goods",
        says=(
            "On most journeys {s} carries {v} over the sea.",
            "{s} carries {v} from one land to another.",
            "There is always {v} in the boxes on {s}.",
            "Most of the {v} in the harbour comes from {s}.",
        ),
        unseen="Who needs {v} waits for {s} to come home.",
        pronoun=("It carries {v} over the sea.", "Its boxes are always full of {v}."),
        asks=("What does {s} carry?", "Which goods are carried by {s}?"),
    ),
    Relation(
        "crew", "ship", "number",
        says=(
            "There are {v} men and women on {s}.",
            "{s} goes to sea with {v} men and women.",
            "It takes {v} men and women to sail {s}.",
            "The list of {s} names {v} men and women.",
        ),
        unseen="Every evening {v} men and women eat on {s}.",
        pronoun=("It goes to sea with {v} men and women.", "It takes {v} men and women to sail it."),
        asks=("How many men and women are on {s}?", "How many men and women sail {s}?"),
        compare=("smaller", "larger"),
    ),
    Relation(
        "builder", "ship", "guild",
        says=(
            "The members of {v} built {s} from good wood.",
            "{s} was built by {v} from good wood.",
            "It was {v} that built {s} long ago.",
            "Good wood was bought by {v} to build {s}.",
        ),
        unseen="Nobody but {v} could build a ship like {s}.",
        pronoun=("It was built by {v} from good wood.", "The members of {v} built it."),
        asks=("Which guild built {s}?", "By which guild was {s} built?"),
        phrase="the guild that built {s}",
        held_out=True,
    ),
)  # fmt: skip
