"""The command line: verbs → calls, and the only place where everything is wired together.

Each verb imports what it needs when it is called, so that `vesalius --help` answers at once. Wrong input is one line on
stderr and exit code 2, a known failure exit code 1, an interruption 130; `--debug` shows the traceback. What holds for
every verb (`--debug`, `--threads N`) may stand anywhere and is taken out before a verb sees its flags.
"""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vesalius.core.errors import UserError, VesaliusError
from vesalius.core.threads import set_threads

if TYPE_CHECKING:
    from vesalius.pipeline.recipe import Recipe

SPIN = "20000"
"""How often an OpenMP thread looks for work before it sleeps, read when torch is imported. The library's own default
spins for milliseconds: where another program wants a core, training was seen to become seven times slower than with
this.
"""

app = typer.Typer(
    name="vesalius",
    help="Build, train, tune, measure and talk to small language models on ordinary hardware.",
    epilog="With any command: --threads N computes with so many threads (VESALIUS_THREADS=N does so always; without "
    "either, as many as there are cores); --debug shows where an error comes from.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # drawing help by rich takes 0.15 s
    pretty_exceptions_enable=False,
)

Out = Annotated[Path, typer.Option(help="Directory of the run.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting: train.steps=100.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")]
Setting = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Any other setting: min_p=0.05, weight_bytes=75_000_000, …"),
]
Speculation = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Guess ahead: ngram, draft:MODEL, early_exit:LAYERS or heads:DIRECTORY."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Model = Annotated[
    str, typer.Argument(help="An alias, a hub id, a .gguf file, a Hugging Face directory or a run directory.")
]
Adapters = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=DIR", help="An adapter that requests may choose as a model; may be repeated."),
]


@app.command()
def run(
    recipe: Annotated[str | None, typer.Argument(help="A shipped recipe's name or a TOML file.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory of the run; runs/NAME of the recipe if not given.")
    ] = None,
    changes: Set = None,
    resume: Resume = False,
) -> None:
    """Run a recipe: text in, a trained, measured, talking model out."""
    from vesalius.core.run_directory import RunDirectory
    from vesalius.pipeline.recipe import find_recipe
    from vesalius.pipeline.run import recipe_of

    if recipe is not None:
        _run(find_recipe(recipe, changes or []), out or Path("runs") / Path(recipe).stem, resume=resume)
    elif out is None or not resume:
        raise UserError("no recipe: name one, for example `vesalius run quickstart` (`vesalius recipes` lists them)")
    elif changes:
        raise UserError("--set changes a recipe that is named; a resumed run keeps its own")
    else:
        _run(recipe_of(RunDirectory(out)), out, resume=True)


@app.command()
def train(
    text: Annotated[list[str], typer.Option(help="Files, globs, corpus:python or hf:owner/name; may be repeated.")],
    minutes: Annotated[float, typer.Option(help="How long to train.")] = 5.0,
    out: Out = Path("runs/train"),
    depth: Annotated[int | None, typer.Option(help="Size of the model: width 64 × depth.")] = None,
    vocab_size: Annotated[int | None, typer.Option(help="Size of the tokenizer.")] = None,
    changes: Set = None,
    resume: Resume = False,
) -> None:
    """Train a first model on your own text: the short way to the `pretrain` recipe."""
    from vesalius.pipeline.recipe import find_recipe

    overrides = [f"data.text={json.dumps(text)}", f"train.minutes={minutes}"]
    overrides += [f"model={{depth={depth}}}"] if depth is not None else []
    overrides += [f"tokenizer.vocab_size={vocab_size}"] if vocab_size is not None else []
    _run(find_recipe("pretrain", overrides + (changes or [])), out, resume=resume)


@app.command()
def generate(
    model: Model,
    prompt: Annotated[str, typer.Argument(help="Text to go on from; - reads it from standard input.")],
    max_tokens: Annotated[int, typer.Option(help="Tokens at most.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token each time.")] = 0.0,
    top_k: Annotated[int | None, typer.Option(help="Sample among the k likeliest.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Sample among the likeliest that hold this probability.")] = None,
    seed: Annotated[int | None, typer.Option(help="For sampling.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be repeated.")] = None,
    as_chat: Annotated[bool, typer.Option("--chat", help="Send the prompt as a user's message.")] = False,
    speculation: Speculation = None,
    changes: Setting = None,
    as_json: Json = False,
) -> None:
    """Continue a text, or answer one message."""
    from vesalius.console.answer import print_answer
    from vesalius.console.settings import settings_of
    from vesalius.infer.language_model import LanguageModel
    from vesalius.infer.params import SamplingOptions

    flags: SamplingOptions = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "seed": seed,
        "stop": stop or (),
    }
    changed, engine = settings_of(changes or [], speculation=speculation)
    settings: SamplingOptions = {**flags, **changed}
    lm = LanguageModel.load(model, engine)
    text = sys.stdin.read() if prompt == "-" else prompt
    print_answer(lm, [{"role": "user", "content": text}] if as_chat else text, as_json=as_json, **settings)


@app.command()
def chat(
    model: Model,
    system: Annotated[str | None, typer.Option(help="What the assistant is told first.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Tokens an answer has at most.")] = 256,
    temperature: Annotated[
        float | None, typer.Option(help="0 takes the likeliest token each time; the model's own if not given.")
    ] = None,
    top_p: Annotated[float | None, typer.Option(help="Sample among the likeliest that hold this probability.")] = None,
    seed: Annotated[int | None, typer.Option(help="For sampling.")] = None,
    speculation: Speculation = None,
    adapter: Annotated[str | None, typer.Option(metavar="DIR", help="An adapter to put around the model.")] = None,
    changes: Setting = None,
    as_json: Json = False,
) -> None:
    """Talk with a model in the terminal. /help lists what can be typed."""
    from vesalius.console.chat import chat_loop
    from vesalius.console.settings import settings_of
    from vesalius.infer.language_model import LanguageModel
    from vesalius.infer.params import SamplingOptions

    settings: SamplingOptions = {"max_tokens": max_tokens, "seed": seed}
    if temperature is not None:
        settings["temperature"] = temperature
    if top_p is not None:
        settings["top_p"] = top_p
    changed, engine = settings_of(changes or [], speculation=speculation)
    settings = {**settings, **changed}
    lm = LanguageModel.load(model, engine, adapter=adapter)
    chat_loop(lm, system=system, as_json=as_json, **settings)


@app.command()
def serve(
    model: Model,
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than this machine's need a key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8000,
    api_key: Annotated[
        list[str] | None,
        typer.Option(envvar="VESALIUS_API_KEY", help="A key that requests must bring; may be repeated."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="What clients call the model; its own name if not given.")] = None,
    adapter: Adapters = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Any other setting: max_running=16, max_queue=100, timeout=60, …"
        ),
    ] = None,
) -> None:
    """Serve a model over HTTP: OpenAI's API, and a page to chat with it."""
    from vesalius.serve.options import read_adapters, read_options
    from vesalius.serve.run import serve as serve_model

    settings, options = read_options(changes or [], host=host, port=port, api_keys=tuple(api_key or ()))
    serve_model(model, settings, options, name=name, adapters=read_adapters(adapter or []))


@app.command()
def batch(
    model: Model,
    source: Annotated[Path, typer.Argument(help="JSON lines: custom_id, method, url, body, as OpenAI's batches.")],
    target: Annotated[Path, typer.Argument(help="File for the answers; one that was begun is gone on with.")],
    name: Annotated[str | None, typer.Option(help="What requests call the model; its own name if not given.")] = None,
    adapter: Adapters = None,
    in_flight: Annotated[
        int | None, typer.Option(min=1, help="Requests at a time; twice max_running if not given.")
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting of the engine: max_running=16, …")
    ] = None,
    as_json: Json = False,
) -> None:
    """Answer a file of requests."""
    from vesalius.console.progress import stage_progress
    from vesalius.serve.batch import Batch
    from vesalius.serve.options import read_adapters, read_options
    from vesalius.serve.run import batch as run

    _, options = read_options(changes or [])
    files = Batch.open(source, target)
    with stage_progress("batch", files.total) as advance:
        adapters = read_adapters(adapter or [])
        counts = run(model, files, options, name=name, adapters=adapters, in_flight=in_flight, on_progress=advance)
    if as_json:
        print(json.dumps(vars(counts)))
    else:
        print(f"{counts.total} requests, {counts.skipped} of them answered before, {counts.failed} refused: {target}")


@app.command(name="eval")
def evaluate(
    model: Model,
    text: Annotated[list[str] | None, typer.Option(help="Measure bits per byte on these files or globs.")] = None,
    questions: Annotated[int, typer.Option(help="Questions about docstrings, each of seen and unseen modules.")] = 0,
    context: Annotated[int | None, typer.Option(help="Tokens that are read at once; the model's own at most.")] = None,
    as_json: Json = False,
) -> None:
    """Measure a model: bits per byte of text, and the choice among docstrings."""
    from vesalius.console.tables import print_results
    from vesalius.infer.language_model import LanguageModel
    from vesalius.pipeline.measuring import measure

    results = measure(LanguageModel.load(model), text=text or [], questions=questions, context=context)
    print(json.dumps(results, indent=2)) if as_json else print_results(results)


@app.command()
def pull(
    name: Annotated[str, typer.Argument(help="An alias (smollm2-135m-instruct, minilm-l6) or a hub id owner/name.")],
    as_json: Json = False,
) -> None:
    """Fetch a model into the cache and print where it is; what is there already is only checked."""
    from vesalius.hub.pull import pull as fetch

    pulled = fetch(name)
    print(json.dumps({"path": str(pulled.path), "source": pulled.source}) if as_json else pulled.path)


@app.command()
def export(
    model: Model,
    path: Annotated[Path, typer.Argument(help="A .gguf file for llama.cpp, or a new Hugging Face directory.")],
    dtype: Annotated[
        str | None, typer.Option(help="f32, f16, bf16; for .gguf also q8_0 (if not given), q6_k, q5_k, q5_1, … q2_k.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a model for other programs."""
    from vesalius.console.tables import print_exported
    from vesalius.infer.language_model import LanguageModel

    done = LanguageModel.load(model).export(path, dtype=dtype)
    facts = {**vars(done), "path": str(done.path)}
    print(json.dumps(facts, indent=2)) if as_json else print_exported(facts)


@app.command()
def bench(
    model: Model,
    repeats: Annotated[int, typer.Option(help="Times that each work is timed; the median counts.")] = 5,
    as_json: Json = False,
) -> None:
    """Time a model on this machine, beside the machine's limits: opening, prompts, new tokens, memory."""
    from vesalius.console.tables import print_speed
    from vesalius.pipeline.measuring import measure_speed_of

    facts = measure_speed_of(model, repeats=repeats)
    print(json.dumps(facts, indent=2)) if as_json else print_speed(facts)


@app.command()
def recipes(as_json: Json = False) -> None:
    """List the recipes that come with the package."""
    from vesalius.pipeline.recipe import shipped_recipes

    found = {name: _first_comment(path) for name, path in shipped_recipes().items()}
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        for name, about in found.items():
            print(f"{name:12s} {about}")


@app.command()
def info(
    model: Annotated[
        str, typer.Argument(help="An alias, a hub id, a .gguf file, a directory, or a preset's name (micro, …).")
    ],
    as_json: Json = False,
) -> None:
    """Show what a model is made of and what it costs: parameters, operations, bytes."""
    from vesalius.console.tables import print_info
    from vesalius.pipeline.measuring import describe

    facts = describe(model)
    print(json.dumps(facts, indent=2)) if as_json else print_info(facts)


def _run(recipe: "Recipe", out: Path, *, resume: bool) -> None:
    from vesalius.console.progress import TerminalDisplay
    from vesalius.pipeline.run import run_recipe

    done = run_recipe(recipe, out, TerminalDisplay(), resume=resume)
    print(f"\nReport:  {done.report}")
    if not recipe.scores:
        chats = bool(recipe.answering)
        print(f"Try it:  vesalius {'chat' if chats else 'generate'} {out}" + ("" if chats else ' "Once upon a time"'))


def _first_comment(path: Path) -> str:
    return path.read_text("utf-8").splitlines()[0].removeprefix("# ")


def _without_threads(arguments: list[str]) -> tuple[list[str], str | None]:
    """The other arguments, and what the last --threads N or --threads=N says; behind a -- all is text."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    rest: list[str] = []
    threads: str | None = None
    before = iter(arguments[:end])
    for argument in before:
        name, equals, value = argument.partition("=")
        if name == "--threads":
            threads = value if equals else next(before, "")
        else:
            rest.append(argument)
    return rest + arguments[end:], threads


def main() -> None:
    """The `vesalius` command."""
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN)
    debug = "--debug" in sys.argv[1:]
    try:
        arguments, threads = _without_threads([argument for argument in sys.argv[1:] if argument != "--debug"])
        set_threads(threads)
        app(arguments, standalone_mode=True)
    except VesaliusError as error:
        if debug:
            raise
        print(f"vesalius: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
