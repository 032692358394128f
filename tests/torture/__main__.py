import argparse, sys
from pathlib import Path
from tests.torture import answers
def main():
    p=argparse.ArgumentParser(); p.add_argument("--completions",type=int,default=0); p.add_argument("--symbolic",type=int,default=0); p.add_argument("--seed",type=int,default=1); p.add_argument("--jobs",type=int,default=2)
    a=p.parse_args()
    for f,n in ((answers.torture_cheap_graders,a.completions),(answers.torture_symbolic_grader,a.symbolic)):
        if n:
            t=f(n,a.seed,a.jobs,Path(f"/tmp/tort/faults-{f.__name__}.jsonl"))
            print(f.__name__, t.completions, t.asked, t.line(), t.verdicts, t.worker_memory/2**20, t.is_good, flush=True)
if __name__=="__main__": main()
