"""The JSON skimmer: what has to be known of a body, in one walk and without building objects.

`skim` reads a request, `skim_answer` an upstream's answer. Both validate the whole text (the
grammar is `grammar.pxd`, the judge orjson), so that what was authorised is what the provider's
parser reads. A request that names a policy-relevant key twice is refused, since parsers differ
in which one counts; escaped spellings of a key are that key. `splice` replaces the model's name
and asks for usage in the body as it stands: nothing else changes, and long bodies are not copied.

Facts, limits and figures: docs/wire.md.
"""

cimport cython
import orjson

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.string cimport memcmp, memcpy

from llmgw._wire.cursor cimport Cursor, cursor_over, offset, peek, skip_space, take, take_word
from llmgw._wire.grammar cimport (
    BROKEN, DONE, FAULT_TOKEN, MORE, More, Text, enter, fail, first_member, leave, next_member, read_string,
    skip_end, skip_member, skip_number, skip_value, text_is,
)

cdef enum:
    MAX_COUNT = 0x7FFFFFFF        # of tokens
    MAX_CHOICES = 128             # OpenAI's own maximum of `n`
    MAX_MODEL_BYTES = 256
    MAX_USER_CHARS = 512
    IMAGE_BYTES = 4000            # what an inline image counts at most: some 1,000 to 2,000 tokens of text
    COPY_BYTES = 16 * 1024        # below, one copied piece is cheaper than several views

# Duplicates of these are refused. In the order of how often requests name them: the search is linear.
cdef enum Field:
    MODEL
    MESSAGES
    STREAM
    MAX_TOKENS
    STREAM_OPTIONS
    MAX_COMPLETION_TOKENS
    INPUT
    N
    USER
    MAX_OUTPUT_TOKENS
    PROMPT
    SERVICE_TIER
    BEST_OF
    METADATA
    BACKGROUND
    FIELDS                        # how many; also: a key that is none of them

cdef tuple NAMES = (
    b"model", b"messages", b"stream", b"max_tokens", b"stream_options", b"max_completion_tokens", b"input",
    b"n", b"user", b"max_output_tokens", b"prompt", b"service_tier", b"best_of",
    b"metadata", b"background",
)
cdef const char* NAME_TEXT[<int>FIELDS]         # NAMES again, for C
cdef Py_ssize_t NAME_BYTES[<int>FIELDS]

# By cursor.Fault.
cdef tuple FAULTS = (
    "", "unexpected end", "unexpected character", "control character in a string", "unknown escape",
    "lone surrogate", "not UTF-8", "malformed number", "number too large", "nested too deeply",
    "unexpected character behind the value",
)


class SkimError(ValueError):
    """A request body that must not go upstream. `param` names the field at fault, if one is."""

    def __init__(self, message, param=None):
        super().__init__(message)
        self.message = message
        self.param = param


cdef int fill_names() except -1:
    cdef int i
    for i in range(FIELDS):
        NAME_TEXT[i] = PyBytes_AS_STRING(NAMES[i])
        NAME_BYTES[i] = len(NAMES[i])
    return 0


fill_names()


# the request

@cython.final
cdef class Skim:
    def __cinit__(self):
        self.model_start = self.model_end = self.stream_options_start = self.stream_options_end = -1
        self.usage_start = self.usage_end = self.max_tokens = self.max_output_tokens = -1
        self.n = self.prompts = 1


cpdef Skim skim(bytes body):
    """The facts of a request body. SkimError where it is not a JSON object that may be served."""
    cdef Py_ssize_t size = len(body)             # first: it refuses None
    cdef Cursor c = cursor_over(<const unsigned char*>PyBytes_AS_STRING(body), size)
    cdef Skim facts = Skim.__new__(Skim)
    cdef Text key
    cdef More more
    cdef unsigned int seen = 0
    skip_space(&c)
    if peek(&c) != c'{':
        raise SkimError("The request body must be a JSON object.")
    more = first_member(&c, &key)
    facts.is_empty = more == DONE
    while more == MORE:
        read_member(facts, &c, &key, &seen)
        more = next_member(&c, &key)
    facts.close_at = offset(&c) - 1
    if more == BROKEN or not skip_end(&c):
        raise broken(&c)
    return facts


cdef object broken(Cursor* c):
    """The error of a text that is not JSON."""
    return SkimError(f"The request body is not valid JSON: {FAULTS[c.fault]} at byte {offset(c)}.")


cdef object repeated(str name):
    return SkimError(f"'{name}' must not be given twice.", name)


cdef int field_of(const Text* key) noexcept:
    cdef int field
    for field in range(FIELDS):
        if text_is(key, NAME_TEXT[field], NAME_BYTES[field]):
            return field
    return FIELDS


cdef int read_member(Skim facts, Cursor* c, const Text* key, unsigned int* seen) except -1:
    """At the value of a top-level member; steps behind it."""
    cdef int field = field_of(key)
    cdef Py_ssize_t start = offset(c)
    cdef Py_ssize_t image_bytes = 0, prompts = 0
    cdef bint is_list
    if field == FIELDS:
        is_prompt = is_prompt_key(key) and peek(c) != c'n'
        if not skip_value(c, NULL):
            raise broken(c)
        if is_prompt:
            facts.prompt_bytes += offset(c) - start
        return 0
    if seen[0] >> field & 1:
        raise repeated(NAMES[field].decode())
    seen[0] |= 1U << field
    if field == MESSAGES or field == INPUT or field == PROMPT or field == SERVICE_TIER:
        is_list = field == PROMPT and peek(c) == c'['
        if not (skip_prompt_array(c, &image_bytes, &prompts) if is_list else skip_prompt(c, &image_bytes)):
            raise broken(c)
        if field == PROMPT:
            facts.prompts = max(prompts, 1)
        if field != SERVICE_TIER:
            facts.prompt_bytes += offset(c) - start - image_bytes
    else:
        read_fact(facts, c, field)
    return 0


cdef bint is_prompt_key(const Text* key) noexcept:
    """Further keys whose value the model reads. Given twice, both count: the estimate errs upward."""
    return (text_is(key, b"tools", 5) or text_is(key, b"system", 6) or text_is(key, b"instructions", 12)
            or text_is(key, b"response_format", 15) or text_is(key, b"functions", 9)
            or text_is(key, b"prediction", 10) or text_is(key, b"documents", 9) or text_is(key, b"query", 5))


cdef bint skip_prompt(Cursor* c, Py_ssize_t* image_bytes) noexcept:
    """As skip_value; `image_bytes` grows by what inline images are longer than IMAGE_BYTES."""
    cdef int first = peek(c)
    cdef Text key
    cdef More more
    if first == c'[':
        return skip_prompt_array(c, image_bytes, NULL)
    if first != c'{':
        return skip_value(c, NULL)
    more = first_member(c, &key)
    while more == MORE:
        if not skip_prompt_member(c, &key, image_bytes):
            return False
        more = next_member(c, &key)
    return more == DONE


cdef bint skip_prompt_array(Cursor* c, Py_ssize_t* image_bytes, Py_ssize_t* prompts) noexcept:
    """Where `prompts` is not NULL it grows by the strings and arrays right in it: numbers are one prompt's tokens."""
    if not enter(c):
        return False
    if leave(c, c']'):
        return True
    while True:
        if prompts != NULL and (peek(c) == c'"' or peek(c) == c'['):
            prompts[0] += 1
        if not skip_prompt(c, image_bytes):
            return False
        skip_space(c)
        if not take(c, c','):
            return leave(c, c']') or fail(c, FAULT_TOKEN)
        skip_space(c)


cdef bint skip_prompt_member(Cursor* c, const Text* key, Py_ssize_t* image_bytes) noexcept:
    """An image is told by its place, too: as text, the same bytes are tokens one and all."""
    cdef const unsigned char* start = c.at
    if not skip_prompt(c, image_bytes):
        return False
    if c.at - start > IMAGE_BYTES and memcmp(start, b'"data:image', 11) == 0:
        if text_is(key, b"url", 3) or text_is(key, b"image_url", 9):
            image_bytes[0] += c.at - start - IMAGE_BYTES
    return True


cdef int read_fact(Skim facts, Cursor* c, int field) except -1:
    cdef Py_ssize_t start = offset(c)
    if field == MODEL:
        facts.model = read_model(c)
        facts.model_start, facts.model_end = start, offset(c)
    elif field == STREAM:
        facts.stream = read_flag(c, "stream")
    elif field == STREAM_OPTIONS:
        read_stream_options(facts, c)
        facts.stream_options_start, facts.stream_options_end = start, offset(c)
    elif field == USER:
        facts.user = read_user(c)
    elif field == N or field == BEST_OF:
        facts.n = max(facts.n, read_count(c, field, 1, MAX_CHOICES))
    elif field == METADATA:
        read_metadata(facts, c)
    elif field == BACKGROUND:
        facts.is_background = not take_word(c, b"false", 5) and not take_word(c, b"null", 4)
        if facts.is_background and not skip_value(c, NULL):
            raise broken(c)
    elif field == MAX_OUTPUT_TOKENS:
        facts.max_output_tokens = read_count(c, field, 0, MAX_COUNT)
    else:
        facts.max_tokens = max(facts.max_tokens, read_count(c, field, 0, MAX_COUNT))
    return 0


cdef int read_stream_options(Skim facts, Cursor* c) except -1:
    cdef Text key
    cdef More more
    facts.options_are_null = take_word(c, b"null", 4)
    if facts.options_are_null:
        return 0
    if peek(c) != c'{':
        raise SkimError("'stream_options' must be an object or null.", "stream_options")
    more = first_member(c, &key)
    facts.options_are_empty = more == DONE
    while more == MORE:
        if text_is(&key, b"include_usage", 13):
            if facts.usage_start >= 0:
                raise repeated("stream_options.include_usage")
            facts.usage_start = offset(c)
            facts.include_usage = read_flag(c, "stream_options.include_usage")
            facts.usage_end = offset(c)
        elif not skip_value(c, NULL):
            raise broken(c)
        more = next_member(c, &key)
    if more == BROKEN:
        raise broken(c)
    return 0


cdef int read_metadata(Skim facts, Cursor* c) except -1:
    """Whatever it holds is for its route to judge; a user that is named twice is nobody."""
    cdef Text key
    cdef More more
    cdef bint has_user_id = False
    if peek(c) != c'{':
        if not skip_value(c, NULL):
            raise broken(c)
        return 0
    more = first_member(c, &key)
    while more == MORE:
        if text_is(&key, b"user_id", 7):
            facts.user_id = read_user_id(facts, c)
            facts.is_user_id_odd = facts.is_user_id_odd or has_user_id
            has_user_id = True
        elif not skip_value(c, NULL):
            raise broken(c)
        more = next_member(c, &key)
    if more == BROKEN:
        raise broken(c)
    return 0


cdef str read_user_id(Skim facts, Cursor* c):
    cdef Text text
    user_id = None
    if take_word(c, b"null", 4):
        return None
    if peek(c) == c'"':
        if not read_string(c, &text):
            raise broken(c)
        user_id = short_text(&text)
    elif not skip_value(c, NULL):
        raise broken(c)
    facts.is_user_id_odd = facts.is_user_id_odd or user_id is None
    return user_id


cdef bint read_flag(Cursor* c, str name) except -1:
    if take_word(c, b"true", 4):
        return True
    if take_word(c, b"false", 5) or take_word(c, b"null", 4):
        return False
    raise SkimError(f"'{name}' must be a boolean or null.", name)


cdef int read_count(Cursor* c, int field, int least, int most) except -2:
    """An integer without fraction or exponent; -1 for null."""
    cdef const unsigned char* at = c.at
    cdef long long value = 0
    if take_word(c, b"null", 4):
        return -1
    if c'0' <= peek(c) <= c'9' and skip_number(c) and c.at - at <= 10:
        while at < c.at and c'0' <= at[0] <= c'9':
            value = value * 10 + (at[0] - c'0')
            at += 1
        if at == c.at and least <= value <= most:
            return <int>value
    name = NAMES[field].decode()
    raise SkimError(f"'{name}' must be an integer from {least} to {most}, or null.", name)


cdef str read_model(Cursor* c):
    cdef Text text
    cdef str model
    cdef Py_UCS4 char
    if peek(c) != c'"':
        raise SkimError("'model' must be a string.", "model")
    if not read_string(c, &text):
        raise broken(c)
    if not 0 < text.bytes <= MAX_MODEL_BYTES:
        raise SkimError(f"'model' must be 1 to {<int>MAX_MODEL_BYTES} bytes long.", "model")
    model = decode(&text)
    for char in model:
        if char < 0x20 or 0x7F <= char < 0xA0:       # C0, DEL, C1: never in a name, harmful in a log
            raise SkimError("'model' must not hold control characters.", "model")
    return model


cdef str read_user(Cursor* c):
    cdef Text text
    if take_word(c, b"null", 4):
        return None
    if peek(c) != c'"':
        raise SkimError("'user' must be a string or null.", "user")
    if not read_string(c, &text):
        raise broken(c)
    user = short_text(&text)
    if user is None:
        raise SkimError(f"'user' must be at most {<int>MAX_USER_CHARS} characters long.", "user")
    return user


cdef str short_text(const Text* text):
    """None where it is longer than a user's name may be."""
    if text.bytes > 4 * MAX_USER_CHARS:              # not worth decoding
        return None
    user = decode(text)
    return user if len(user) <= MAX_USER_CHARS else None


cdef str decode(const Text* text):
    if text.raw_bytes == text.bytes:
        return PyUnicode_DecodeUTF8(<const char*>text.start, text.raw_bytes, NULL)
    return orjson.loads(<bytes>(text.start - 1)[:text.raw_bytes + 2])


# the way on: the body with another model, and with usage asked for

@cython.nonecheck(True)
cpdef list splice(bytes body, Skim facts, str model, bint force_usage):
    """The body in pieces, with `model` (None: as it stands) and, where `force_usage`,
    `stream_options.include_usage` true; `[body]` where that changes nothing."""
    cdef list edits = []                 # (start, end, what stands there instead)
    cdef bytes tail = b""
    if model is not None and model != facts.model:
        name = orjson.dumps(model)
        if facts.model_start >= 0:
            edits.append((facts.model_start, facts.model_end, name))
        else:
            tail += b',"model":' + name
    if force_usage and not facts.include_usage:
        if facts.stream_options_start >= 0:
            edits.append(usage_edit(facts))
        else:
            tail += b',"stream_options":{"include_usage":true}'
    if tail:
        edits.append((facts.close_at, facts.close_at, tail[1:] if facts.is_empty else tail))
    if not edits:
        return [body]
    edits.sort()
    return cut_small(body, edits) if len(body) <= COPY_BYTES else cut_large(body, edits)


cdef tuple usage_edit(Skim facts):
    """How a body that has stream_options comes to ask for usage."""
    cdef Py_ssize_t close_at = facts.stream_options_end - 1
    if facts.options_are_null:
        return facts.stream_options_start, facts.stream_options_end, b'{"include_usage":true}'
    if facts.usage_start >= 0:
        return facts.usage_start, facts.usage_end, b"true"
    member = b'"include_usage":true' if facts.options_are_empty else b',"include_usage":true'
    return close_at, close_at, member


cdef list cut_small(bytes body, list edits):
    cdef Py_ssize_t start, end, at = 0, size = len(body)
    cdef bytes text
    for start, end, text in edits:
        size += len(text) - (end - start)
    cdef bytes whole = PyBytes_FromStringAndSize(NULL, size)
    cdef char* out = PyBytes_AS_STRING(whole)
    for start, end, text in edits:
        memcpy(out, PyBytes_AS_STRING(body) + at, start - at)
        memcpy(out + start - at, PyBytes_AS_STRING(text), len(text))
        out += start - at + len(text)
        at = end
    memcpy(out, PyBytes_AS_STRING(body) + at, len(body) - at)
    return [whole]


cdef list cut_large(bytes body, list edits):
    cdef Py_ssize_t start, end, at = 0
    view = memoryview(body)
    pieces = []
    for start, end, text in edits:
        pieces.append(view[at:start])
        pieces.append(text)
        at = end
    pieces.append(view[at:])
    return pieces


# the answer

@cython.final
cdef class Answer:
    pass


cpdef Answer skim_answer(bytes body):
    """The facts of an upstream's answer, of any shape; where it is not JSON there are none."""
    cdef Py_ssize_t size = len(body)             # first: it refuses None
    cdef Cursor c = cursor_over(<const unsigned char*>PyBytes_AS_STRING(body), size)
    cdef Answer answer = Answer.__new__(Answer)
    skip_space(&c)
    if peek(&c) == c'{':
        answer.is_json = read_answer(answer, &c)
    else:
        answer.is_json = skip_value(&c, &answer.text_bytes)
    answer.is_json = answer.is_json and skip_end(&c)
    return answer if answer.is_json else Answer.__new__(Answer)


cdef bint read_answer(Answer answer, Cursor* c) except -1:
    cdef Text key
    cdef const unsigned char* start
    cdef More more = first_member(c, &key)
    while more == MORE:
        start = c.at
        if not skip_member(c, &key, &answer.text_bytes):
            return False
        if text_is(&key, b"usage", 5):       # the last one counts, as for orjson
            answer.usage = <bytes>start[:c.at - start] if start[0] == c'{' else None
        elif text_is(&key, b"error", 5):
            answer.is_error = start[0] != c'n'
        more = next_member(c, &key)
    return more == DONE
