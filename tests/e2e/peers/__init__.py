"""The real peers svqd is tested between: one module per noun.

Nothing here knows a test. A Bench owns the processes and the scratch folder of one test; everything
else (Guest, StorageDaemon, Virtiofsd, Testpmd, Svqd) is started on a bench and ended with it.
"""
