# SPDX-License-Identifier: Apache-2.0
"""WildVision-Bench: 500 questions about images, each with a five-level verdict between a model's answer and that of a baseline.

It compares models and has no labels of people, so it is no benchmark of critics: only its results are read, the files of model_judgements/,
which hold the verdicts of one judge.
Leaderboard (WildVision-AI/WildVision-Bench show_results.py at 79dacc0): the win rate is the share of questions whose reward is above 0;
the reward is the mean of 100, 50, 0, -50 and -100 for much better to much worse, here divided by 100. The score is the win rate that
Bradley and Terry's model predicts. As all battles are against the baseline, it is the share of battles won, in which a clear verdict
counts WEIGHT times and a tie is half a win. Anything but the five verdicts counts as a tie in the rewards, and not in the score. With two
games a question, in the second one the answers are exchanged. The leaderboard sets the score of the baseline itself to 50.
"""

from collections.abc import Mapping
from typing import Any

from critic_r1_verl.benchmarks import tally
from critic_r1_verl.benchmarks.reading import Row

PAIRS = (500,)
GROUPS: dict[str, int | None] = {}
WEIGHT = 3
_REWARDS = {"A>>B": -1.0, "A>B": -0.5, "A=B": 0.0, None: 0.0, "B>A": 0.5, "B>>A": 1.0}
_NAMES = {1.0: "much better", 0.5: "better", 0.0: "tie", -0.5: "worse", -1.0: "much worse"}


def recognises(values: Mapping[str, Any]) -> bool:
    return {"question_id", "model", "games"} <= values.keys()


def published(rows: list[Row]) -> tally.Published:
    """The results of one model, or of several. If a question occurs again, the last row counts, as in the official code."""
    verdicts = {(row.value("model"), row.value("question_id")): _games(row) for row in rows}
    items = [tally.Item("\t".join(key), key[0], key[1], float(sum(map(_reward, games)) > 0)) for key, games in verdicts.items()]
    models = sorted({model for model, _ in verdicts})
    of_model = {model: [games for (name, _), games in verdicts.items() if name == model] for model in models}
    notes = ["overall and groups are the win rates of the models"]
    if len(verdicts) < len(rows):
        notes.append(f"{len(rows) - len(verdicts):,} rows are replaced by a later one of the same question")
    for model, questions in of_model.items():
        levels = [_reward(game) for games in questions for game in games]
        none = sum(verdict is None for games in questions for verdict, _ in games)
        counts = ", ".join(f"{levels.count(level)} {name}" for level, name in _NAMES.items())
        notes.append(f"{model}: {counts}{f'; {none} of the ties are no verdict' if none else ''}")
    leaderboard = {
        "score": {"groups": {model: _score([game for games in questions for game in games]) for model, questions in of_model.items()}},
        "reward": {"groups": {model: tally.mean([sum(map(_reward, games)) for games in all_]) for model, all_ in of_model.items()}},
    }
    return tally.Published(items, tally.score(items) | leaderboard, notes)


def _games(row: Row) -> list[tuple[str | None, int]]:
    """The verdicts of a row, each with the sign of its reward. ValueError names the row if one is malformed."""
    games = row.value("games", list)
    if not 0 < len(games) <= 2:
        raise ValueError(f"{row.where}: key 'games': {len(games)} games, neither 1 nor 2")
    found = []
    for number, game in enumerate(games):
        verdict = game.get("score") if isinstance(game, dict) else 0
        if not isinstance(verdict, str | None):
            raise ValueError(f"{row.where}: key 'games': {game!r:.80} has no text or null as its score")
        found.append((verdict if verdict in _REWARDS else None, -1 if number else 1))
    return found


def _reward(game: tuple[str | None, int]) -> float:
    verdict, sign = game
    return sign * _REWARDS[verdict]


def _score(games: list[tuple[str | None, int]]) -> float | None:
    """None if no game has a verdict."""
    won = battles = 0.0
    for game in games:
        if game[0] is not None:
            reward = _reward(game)
            weight = WEIGHT if abs(reward) == 1 else 1
            battles += weight
            won += weight * (0.5 if reward == 0 else reward > 0)
    return won / battles if battles else None
