"""Measures under load which pool size is sufficient, before there is traffic.

``flask pool tune`` starts processes (:mod:`.load_processes`, :mod:`.load_worker`) that
run the app's own requests with pools of one size after the other (:mod:`.experiment`),
draws a curve through what was measured (:mod:`.scalability`), and chooses
(:mod:`.choice`).
"""
