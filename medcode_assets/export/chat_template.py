"""The recipe's prompt as a chat template: a chat window then sends what training saw."""

from medcode_serving.prompts import PromptTemplate

_ESCAPES = str.maketrans({"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"})

# Simple constructs only: transformers, llama.cpp and LM Studio each have a Jinja of their own.
# The content of every message is read, also of those that are left out: llama.cpp tries a template with a system
# message, and if nothing looks at it, writes that message into the user's.
_LAST_USER_MESSAGE = (
    "{% set found = namespace(note='', text='') %}"
    "{% for message in messages %}"
    "{% if message.content is string %}{% set found.text = message.content | trim %}"
    "{% else %}{% set found.text = '' %}"
    "{% for part in message.content %}"
    "{% if part.type == 'text' %}{% set found.text = found.text + part.text %}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message.role == 'user' %}{% set found.note = found.text %}{% endif %}"
    "{% endfor %}"
)
_NOTE = "(found.note | trim)"


def chat_template(prompt: PromptTemplate) -> str:
    """Return Jinja for `tokenizer.chat_template` that renders the prompt of training from a chat's last user message.

    System messages and earlier turns are left out: the model never saw any. Of a message in parts, the text parts are
    joined. Differs from `PromptTemplate.render` in that a template cannot bring a note into NFC, and that llama.cpp
    trims ASCII white space only.
    """
    pieces = [_literal(piece) for piece in prompt.instruction.split("{note}")]
    return _LAST_USER_MESSAGE + "{{ " + f" + {_NOTE} + ".join(pieces) + f" + {_literal(prompt.answer_header)} }}}}"


def _literal(text: str) -> str:
    """Return a text as a Jinja string: what stands in it is not looked at, and no line begins or ends in it."""
    return f"'{text.translate(_ESCAPES)}'"
