"""`llmgw simulate`: a configuration under given traffic, on machines and clocks that are not there.

    clock      an event loop whose time passes when nobody has anything left to do
    traffic    Request; from a ledger's records, or from streams
    mix        the file of streams that `--mix` reads
    wire       the way to Redis, which takes time and loses things, and the store's model behind it
    standins   in place of what has sockets, threads or a clock of its own
    machine    one machine: the gateway's own admission, queue and leases on a limiter of its own
    tally      what came of it, by key and by limit, in true sliding windows
    run        a fleet and its traffic, from the first arrival to the last answer
    report     the books as a table or as JSON
    cli        the command

    strategies           `llmgw simulate strategies`: one strategy over targets that differ
    strategies_targets   those targets, from a file or built in
    strategies_upstream  what stands behind one
    strategies_report    all of it as tables or as JSON
    strategies_cli       the command

What decides is the gateway's own: `admission`, `waiting`, `limits`, `_core.limiter` and `store.leases`, for
strategies `_core.select`, `_core.health` and `routing.retry`. Only clocks, sockets, providers and Redis are
models. docs/simulate.md tells what that leaves out.
"""
