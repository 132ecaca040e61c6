"""Look for prompts, equal or nearly so, that demonstrations, rankings, PPO prompts and evaluation share; refuse them.

    python recipes/leaks.py                                                   # the nano family's sets
    python recipes/leaks.py --sets demonstrations=runs/mine/chats rankings=runs/mine/rank prompts=my_prompts \
        evaluation=my_prompts:test --allow rankings-prompts --output_dir runs/mine/leaks

A prompt that a model was trained on says nothing about prompts that it was not. Sets that share some on purpose are
named by --allow; --write_clean writes the others without what they share.
"""

from align.data.overlap import leaks
from align.run import launch, lineage, record
from align.run.parse import parse, resolved


def main():
    (args,) = parse(leaks.LeaksConfig, nano=leaks.nano())
    launch.check(launch.ONE_PROCESS)

    with record.start("leaks", args.output_dir, resolved(args), overwrite=args.overwrite) as run:
        run.note(parents=lineage.parents({f"data_{source.name}": source.path for source in args.named()}))
        found, result, sets = leaks.check(args)
        run.note(metrics=result)
        print(leaks.show(result), flush=True)
        if args.write_clean:
            run.note(clean=leaks.write_clean(args, **sets))
        else:
            leaks.refuse(found, args)
        run.finish("complete")


if __name__ == "__main__":
    launch.run(main)
