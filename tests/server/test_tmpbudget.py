import sys, time, os, signal
sys.path.insert(0,'/tmp')
from bud import W
def test_x(served_database, tmp_path):
    url=served_database.url.render_as_string(hide_password=False)
    c=dict(POOLGUARD_BUDGET=6,POOLGUARD_POOL_TIMEOUT=5,POOLGUARD_STATE_DIR=str(tmp_path/'s'))
    ws=[W(url,**c) for _ in range(4)]
    for w in ws: print(w.do('serve'))
    time.sleep(1.5)
    n=lambda: len(served_database.running_server.session_ids(database=served_database.url.database))
    print('sessions',n())
    for w in ws: w.do('use 6')
    t=time.time(); m=0
    while time.time()-t<4: m=max(m,n())
    print('max',m)
    for w in ws: w.tell('rest')
    for w in ws: print(w.hear())
    time.sleep(.5); print('now', n())
    a=ws[0]
    for i in range(3): print('take',a.do('take'))
    print('kill'); ws[1].p.kill(); ws[1].p.wait()
    for i in range(2): print('take',a.do('take'))
    print('n',n())
    b=ws[2]
    print('b',b.do('take')); b.tell('take')
    import threading
    from flask_poolguard.budget.shared_file import BudgetFile
    import glob
    for i in range(3):
        time.sleep(1)
        f=BudgetFile.open(str(tmp_path/'s'), os.path.basename(glob.glob(str(tmp_path/'s')+'/*.budget')[0]))
        print('n rows',time.monotonic(), [w.p.pid for w in ws], f.holders(6), f.rows())
    print('b',b.hear())
    for w in ws: 
        w.p.stdin.close() if w.p.poll() is None else None
    for w in ws: w.p.wait()
