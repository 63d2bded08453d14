# The types that heads.py is compiled with.

from llmgw._core.ask cimport Ask
from llmgw._wire.call cimport Call
from llmgw._wire.lines cimport reply_lines
from llmgw._wire.upstream cimport Connection
from llmgw.upstream.provider cimport Upstream
from llmgw.upstream.reply cimport Reply


cpdef bytes reply_head(Call call, Upstream upstream, Connection connection)
