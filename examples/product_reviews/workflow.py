"""A batch of product reviews: each is translated, rated and published; what cannot be processed is set aside.

Faults of the services are retried. A review for which the retries are used up becomes a dead letter, with the error
and all that is needed to try it again, and the rest of the batch goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from dressage.flow import App, Exponential, Searchable, TaskError, WorkflowFailure, workflow

app = App("reviews")
PATIENT = Exponential(base=timedelta(milliseconds=20), limit=timedelta(seconds=1))


class Offensive(WorkflowFailure):
    """The moderation refuses the review: it is an answer, and nobody asks twice."""


@dataclass
class Review:
    id: str
    product: str
    language: str
    text: str


@dataclass
class Summary:
    published: int
    rejected: list[str]
    dead: list[str]
    average: float | None


@dataclass
class BatchView:
    status: Searchable[str] = "PROCESSING"
    done: int = 0


@app.task(retries=3, backoff=PATIENT)
def translate(text: str, language: str) -> str:
    if language == "xx":
        raise LookupError(f"no dictionary for {language}")
    return f"({language}) {text}"


@app.task(retries=3, backoff=PATIENT)
def rate(text: str) -> float:
    if "!!!" in text:
        raise Offensive("shouting")
    return 5.0 if "good" in text else 2.0


@app.task(retries=3, backoff=PATIENT)
def publish(review: Review, stars: float) -> None: ...


@app.task(retries=100, backoff=PATIENT)
def bury(review: Review, error: str) -> None:
    """Puts the review where people look after it."""


async def in_english(review: Review) -> str:
    if review.language == "en":
        return review.text
    return await translate(review.text, review.language)


async def process(review: Review) -> float:
    text = await in_english(review)
    stars = await rate(text)
    await publish(review, stars)
    return stars


@workflow
async def process_reviews(reviews: list[Review]) -> Summary:
    view = BatchView()
    stars: list[float] = []
    rejected: list[str] = []
    dead: list[str] = []
    for number, review in enumerate(reviews, 1):
        try:
            given = await process(review)
        except Offensive as refused:
            rejected = [*rejected, f"{review.id}: {refused.message}"]
        except TaskError as error:
            dead = [*dead, review.id]
            await bury(review, str(error))
        else:
            stars = [*stars, given]
        finally:
            view.done = number
    view.status = "DONE" if not dead else "DONE WITH DEAD LETTERS"
    average = sum(stars) / len(stars) if stars else None
    return Summary(len(stars), rejected, dead, average)
