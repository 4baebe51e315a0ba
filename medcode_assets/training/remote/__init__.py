"""Trainings on another machine: shipped, started detached, followed, and fetched back.

    launchers.py    what a launcher can do (four methods), what it started (handle.json), where notes may go
    shipping.py     what leaves this machine, with checksums; the far side checks them
    runner.py       the far side: checks, trains, says how it ended
    following.py    the near side: start or re-attach, tell of progress, fetch, clean up
    delivery.py     what comes back, checked before it replaces anything
    detached.py     launcher: a detached process on this machine, in a copy
    modal_cloud.py  launcher: a sandbox at modal.com

The far side needs no Dagster, and the near side no network but the launcher's.
"""
