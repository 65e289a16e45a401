# the docs test, going on after a failure and printing every difference
import sys; sys.path.insert(0,'/work/main')
import pytest
from tests.integration.test_docs import *
def test_all(reader, pictures):
    heard=[]
    reader.add_notice_handler(lambda n: heard.extend(said(n.severity, n)))
    for e in examples(PAGE.read_text()):
        try:
            d=differs(e,*run(reader,e,heard),pictures)
        except BaseException as x:
            d=f"line {e.line} {x!r}"
            reader.execute('RESET ROLE')
        if d: print(d,'\n')
