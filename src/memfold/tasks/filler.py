"""Filler: plain sentences about weather, markets and roads that no question asks about.

It has few templates and uses the words of the almanac, so that it adds nothing to the vocabulary.
"""

from __future__ import annotations

from random import Random

from memfold.tasks.names import word_list

_WHEN = ("In the morning", "In the evening", "At noon", "In the winter", "In the summer", "After the rain", "At night")
_WHO = ("an old man", "a young woman", "a child", "a student", "the neighbour", "a few friends", "many people")
_WHERE = (
    "on the road",
    "at the market",
    "near the bridge",
    "by the gate",
    "in the hall",
    "in the harbour",
    "by the sea",
)
_SKY = ("rain", "snow", "wind", "cold air", "warm air", "black clouds", "a golden light")
_LIKE = word_list("cold warm quiet full long dry wet white grey")
_THING = ("a box", "a lamp", "a cart", "a basket", "a letter", "a coin", "some bread", "some paper", "a bell")

TEMPLATES = (
    "{When} there was {sky} over the land.",
    "{When} {who} walked home from the market.",
    "{When} the road was {like} and {like2}.",
    "{Who} stood {where} and waited.",
    "{Who} came {where} with {thing}.",
    "{Who} left {thing} {where}.",
    "{Who} looked for {thing} {where}.",
    "{Who} carried {thing} from one house to another.",
    "{When} the market was {like}, and nobody wanted to buy.",
    "{When} the market was full of people.",
    "The road to the sea was {like} {when}.",
    "The water was {like}, and the boats stood still.",
    "The wind came from the sea, and the air was {like}.",
    "It was {like} {when}, and nobody was {where}.",
    "It was {like} and {like2} for many days.",
    "{When} the bells rang, and {who} stopped {where}.",
    "A cart stopped {where} {when}.",
    "A dog sat {where} and looked at {who}.",
    "Two dogs walked {where} {when}.",
    "{When} you could hear {who} sing {where}.",
    "There was {thing} {where}, and nobody knew why.",
    "There was {sky} {when}, and then the sky was {like}.",
    "{Who} said that the winter would be {like}.",
    "{Who} said that the road was {like} this year.",
    "{Who} gave {thing} to {who2} {where}.",
    "{Who} asked {who2} for {thing}.",
    "{Who} and {who2} met {where} {when}.",
    "Nobody was {where} {when}.",
    "Somebody had left {thing} {where}.",
    "{When} there was a light {where}.",
    "The old houses {where} were {like} and {like2}.",
    "The boats came home {when} with {sky} behind them.",
    "{When} {who} sat {where} and ate bread.",
    "After a long day {who} came home with {thing}.",
    "{Who} lost {thing} {where} {when}.",
    "{Who} found {thing} {where} and took it home.",
    "With {sky} over the sea, the harbour was {like}.",
    "The stones {where} were {like} after the rain.",
    "Every day {who} walked the same road {where}.",
    "Far from the town the land was {like} and {like2}.",
    "{Who} told a long story {where} {when}.",
    "The story was {like}, and {who} went home before its end.",
)


def sentence(rng: Random) -> str:
    """One filler sentence."""
    when, where = rng.choice(_WHEN), rng.choice(_WHERE)
    who, who2 = rng.sample(_WHO, 2)
    like, like2 = rng.sample(_LIKE, 2)
    return rng.choice(TEMPLATES).format(
        who=who,
        Who=who[0].upper() + who[1:],
        who2=who2,
        when=when[0].lower() + when[1:],
        When=when,
        where=where,
        sky=rng.choice(_SKY),
        thing=rng.choice(_THING),
        like=like,
        like2=like2,
    )
