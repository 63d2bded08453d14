"""What became of a request, and what would become of one. Nothing here writes."""

from llmgw.explain.past import listed, remembered
from llmgw.explain.question import Question, question_of
from llmgw.explain.supposed import suppose

__all__ = ["Question", "listed", "question_of", "remembered", "suppose"]
