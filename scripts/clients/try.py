"""Tries clients against a server, and prints a table in Markdown.

A check is a function that raises where its client does not do what its own
documentation says; what it returns, if anything, is told in the table. Checks
assert on forms and on consistency, never on the text that the model writes.
"""

import argparse
import asyncio
import importlib.metadata
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import traceback

import httpx

CHECKS = []
GO = "package main\n\nimport \"fmt\"\n\nfunc main() {\n"
FIVE = ["\n\n", "\nfunc", "\nfor", "\ntype", "<|endoftext|>"]


def check(client, what):
    def add(f):
        CHECKS.append((client, what, f))
        return f

    return add


def raises(kind, call):
    """The error of a call, which must be of a kind."""
    try:
        call()
    except kind as e:
        return e
    raise AssertionError(f"no {kind.__name__}: the call succeeds")


# openai


def openai_client(a, **more):
    import openai

    return openai.OpenAI(base_url=a.url + "/v1", api_key="none", max_retries=0, timeout=60, **more)


@check("openai", "models: list, retrieve")
def _(a):
    c = openai_client(a)
    assert a.model in [m.id for m in c.models.list()]
    assert c.models.retrieve(a.model).id == a.model


@check("openai", "completions: text, usage, seed")
def _(a):
    c = openai_client(a)
    ask = lambda: c.completions.create(model=a.model, prompt=GO, max_tokens=16, temperature=1, seed=7)
    one, two = ask(), ask()
    assert one.choices[0].text == two.choices[0].text != ""
    assert one.usage.completion_tokens == 16 and one.choices[0].finish_reason == "length"


@check("openai", "completions: several prompts, n, token ids")
def _(a):
    c = openai_client(a)
    r = c.completions.create(model=a.model, prompt=["a", "b", "c"], n=2, max_tokens=2)
    assert [x.index for x in r.choices] == list(range(6))
    assert c.completions.create(model=a.model, prompt=[1, 2, 3], max_tokens=2).usage.prompt_tokens == 3


@check("openai", "completions: stream equals the whole, usage at the end")
def _(a):
    c = openai_client(a)
    whole = c.completions.create(model=a.model, prompt=GO, max_tokens=32, temperature=0)
    text, usage = "", None
    with c.completions.create(model=a.model, prompt=GO, max_tokens=32, temperature=0, stream=True,
                              stream_options={"include_usage": True}) as events:
        for e in events:
            text += "".join(x.text for x in e.choices)
            usage = e.usage or usage
    assert text == whole.choices[0].text and usage.completion_tokens == whole.usage.completion_tokens


@check("openai", "completions: echo with logprobs")
def _(a):
    r = openai_client(a).completions.create(model=a.model, prompt=GO, max_tokens=4, temperature=0, echo=True, logprobs=2)
    l = r.choices[0].logprobs
    assert "".join(l.tokens) == r.choices[0].text and l.token_logprobs[0] is None
    assert all(x <= 0 for x in l.token_logprobs[1:]) and l.text_offset[0] == 0
    assert all(len(t) >= 2 for t in l.top_logprobs[1:])


@check("openai", "completions: five stop strings")
def _(a):
    r = openai_client(a).completions.create(model=a.model, prompt=GO, max_tokens=64, temperature=0, stop=FIVE)
    assert not any(s in r.choices[0].text for s in FIVE)


@check("openai", "chat: text, content as parts, developer")
def _(a):
    c = openai_client(a)
    ask = lambda messages: c.chat.completions.create(model=a.model, messages=messages, max_tokens=12, temperature=0).choices[0]
    plain = ask([{"role": "developer", "content": "x"}, {"role": "user", "content": GO}])
    parts = ask([{"role": "developer", "content": "x"}, {"role": "user", "content": [{"type": "text", "text": GO}]}])
    assert plain.message.content == parts.message.content != "" and plain.message.role == "assistant"


@check("openai", "chat: stream, logprobs")
def _(a):
    c = openai_client(a)
    ask = {"model": a.model, "messages": [{"role": "user", "content": GO}], "max_completion_tokens": 12, "temperature": 0, "logprobs": True, "top_logprobs": 3}
    whole = c.chat.completions.create(**ask).choices[0]
    assert "".join(t.token for t in whole.logprobs.content) == whole.message.content
    assert all(len(t.top_logprobs) == 3 for t in whole.logprobs.content)
    text, logprobs = "", []
    for e in c.chat.completions.create(**ask, stream=True):
        text += "".join(x.delta.content or "" for x in e.choices)
        logprobs += [t.logprob for x in e.choices if x.logprobs for t in x.logprobs.content]
    assert text == whole.message.content and logprobs == [t.logprob for t in whole.logprobs.content]


@check("openai", "16 requests at once give the same as one alone; a stream that is dropped harms none")
def _(a):
    import openai

    async def all_of_them():
        async with openai.AsyncOpenAI(base_url=a.url + "/v1", api_key="none", max_retries=0, timeout=120) as c:
            ask = lambda **m: c.completions.create(model=a.model, prompt=GO, max_tokens=24, temperature=0, **m)
            alone = (await ask()).choices[0].text
            dropped = await ask(stream=True)
            await anext(aiter(dropped))
            await dropped.close()
            many = await asyncio.gather(*(ask() for _ in range(16)))
            assert all(m.choices[0].text == alone for m in many)

    asyncio.run(all_of_them())


@check("openai", "a field that nobody knows is ignored")
def _(a):
    openai_client(a).completions.create(model=a.model, prompt=GO, max_tokens=1, extra_body={"field_of_tomorrow": 1})


@check("openai", "neutral values of fields that are not implemented")
def _(a):
    openai_client(a).chat.completions.create(
        model=a.model, messages=[{"role": "user", "content": GO}], max_tokens=1, parallel_tool_calls=True, reasoning_effort="medium",
        extra_body={"documents": [], "truncate_prompt_tokens": None})


@check("openai", "errors: BadRequestError with param, NotFoundError for a model")
def _(a):
    import openai

    c = openai_client(a)
    e = raises(openai.BadRequestError, lambda: c.completions.create(model=a.model, prompt="x", temperature=9))
    assert e.param == "temperature" and e.type == "invalid_request_error"
    e = raises(openai.NotFoundError, lambda: c.completions.create(model="no-such-model", prompt="x"))
    assert e.code == "model_not_found"


@check("openai", "errors: overflow is BadRequestError context_length_exceeded")
def _(a):
    import openai

    e = raises(openai.BadRequestError, lambda: openai_client(a).completions.create(model=a.model, prompt=GO * 400, max_tokens=16))
    assert e.code == "context_length_exceeded"


# litellm


def litellm():
    import litellm

    litellm.suppress_debug_info, litellm.telemetry, litellm.num_retries = True, False, 0
    return litellm


def lite(a, provider="openai"):
    return {"model": f"{provider}/{a.model}", "api_base": a.url + "/v1", "api_key": "none", "timeout": 60}


@check("litellm", "completion: openai/, hosted_vllm/")
def _(a):
    texts = [litellm().completion(**lite(a, p), messages=[{"role": "user", "content": GO}], max_tokens=12, temperature=0).choices[0].message.content
             for p in ("openai", "hosted_vllm")]
    assert texts[0] == texts[1] != ""


@check("litellm", "completion: stream, with usage")
def _(a):
    events = list(litellm().completion(**lite(a), messages=[{"role": "user", "content": GO}], max_tokens=12, temperature=0, stream=True, stream_options={"include_usage": True}))
    assert "".join(e.choices[0].delta.content or "" for e in events if e.choices) != ""
    assert any(getattr(e, "usage", None) for e in events)


@check("litellm", "text_completion: text, stream, five stop strings")
def _(a):
    l = litellm()
    ask = {**lite(a, "text-completion-openai"), "prompt": GO, "max_tokens": 24, "temperature": 0}
    whole = l.text_completion(**ask).choices[0].text
    assert "".join(e.choices[0].text or "" for e in l.text_completion(**ask, stream=True)) == whole != ""
    assert not any(s in l.text_completion(**ask, stop=FIVE).choices[0].text for s in FIVE)


@check("litellm", "overflow is ContextWindowExceededError (openai/)")
def _(a):
    l = litellm()
    raises(l.ContextWindowExceededError, lambda: l.completion(**lite(a), messages=[{"role": "user", "content": GO * 400}], max_tokens=16))


@check("litellm", "overflow is ContextWindowExceededError (hosted_vllm/)")
def _(a):
    l = litellm()
    raises(l.ContextWindowExceededError, lambda: l.completion(**lite(a, "hosted_vllm"), messages=[{"role": "user", "content": GO * 400}], max_tokens=16))


@check("litellm", "overflow by max_tokens alone is ContextWindowExceededError")
def _(a):
    l = litellm()
    raises(l.ContextWindowExceededError, lambda: l.completion(**lite(a), messages=[{"role": "user", "content": GO}], max_tokens=100_000))
    raises(l.ContextWindowExceededError, lambda: l.text_completion(**lite(a, "text-completion-openai"), prompt=GO, max_tokens=100_000))


@check("litellm", "a wrong value is BadRequestError, a model that is not there NotFoundError")
def _(a):
    l = litellm()
    raises(l.BadRequestError, lambda: l.completion(**lite(a), messages=[{"role": "user", "content": "x"}], temperature=9))
    raises(l.NotFoundError, lambda: l.completion(**{**lite(a), "model": "openai/no-such-model"}, messages=[{"role": "user", "content": "x"}]))


# langchain


def langchain_chat(a, **more):
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(model=a.model, base_url=a.url + "/v1", api_key="none", max_retries=0, timeout=60, **more)


@check("langchain-openai", "ChatOpenAI: invoke, stream, batch, async")
def _(a):
    c = langchain_chat(a, max_tokens=12, temperature=0)
    whole = c.invoke(GO)
    assert whole.content != "" and whole.usage_metadata["output_tokens"] > 0
    assert "".join(e.content for e in c.stream(GO)) == whole.content
    assert [m.content for m in c.batch([GO, GO])] == [whole.content] * 2
    assert asyncio.run(c.ainvoke(GO)).content == whole.content


@check("langchain-openai", "ChatOpenAI: logprobs, stop, roles")
def _(a):
    c = langchain_chat(a, max_tokens=12, temperature=0, logprobs=True, top_logprobs=2)
    assert len(c.invoke(GO).response_metadata["logprobs"]["content"]) > 0
    m = langchain_chat(a, max_tokens=64, temperature=0, stop=FIVE).invoke([("system", "s"), ("human", GO), ("ai", "x"), ("human", GO)])
    assert not any(s in m.content for s in FIVE)


@check("langchain-openai", "OpenAI: invoke, stream, n")
def _(a):
    from langchain_openai import OpenAI

    c = OpenAI(model=a.model, base_url=a.url + "/v1", api_key="none", max_tokens=12, temperature=0, max_retries=0)
    assert "".join(c.stream(GO)) == c.invoke(GO) != ""


@check("langchain-openai", "overflow is ContextOverflowError")
def _(a):
    from langchain_core.exceptions import ContextOverflowError

    raises(ContextOverflowError, lambda: langchain_chat(a, max_tokens=16).invoke(GO * 400))
    raises(ContextOverflowError, lambda: langchain_chat(a, max_tokens=100_000).invoke(GO))
    raises(ContextOverflowError, lambda: list(langchain_chat(a).stream(GO * 400)))


@check("langchain-openai", "with_structured_output is refused, in words")
def _(a):
    import openai

    c = langchain_chat(a, max_tokens=4).with_structured_output({"title": "T", "type": "object", "properties": {"x": {"type": "integer"}}}, method="json_schema")
    e = raises(openai.BadRequestError, lambda: c.invoke("x"))
    assert e.code == "unsupported_parameter", e


# lm-eval


def lm_eval(a, task, *more, model="local-completions", path="/v1/completions"):
    """The results of a task, run as a user does."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for f in pathlib.Path(a.tasks).glob("*.yaml"):
            (folder / f.name).write_text(f.read_text().replace("DATA", str(pathlib.Path(a.tasks) / "gopher.jsonl")))
        args = f"model={a.model},base_url={a.url}{path},tokenizer={a.tokenizer},tokenizer_backend=huggingface,num_concurrent=4,max_retries=1,max_length=1024"
        command = [sys.executable, "-m", "lm_eval", "--model", model, "--model_args", args, "--tasks", task, "--include_path", str(folder),
                   "--output_path", str(folder / "out"), *more]
        done = subprocess.run(command, capture_output=True, text=True, timeout=400)
        if done.returncode:
            raise AssertionError((done.stderr.strip().splitlines() or ["?"])[-1])
        (results,) = (folder / "out").rglob("results*.json")
        return json.loads(results.read_text())["results"][task]


@check("lm-eval", "local-completions: generate_until with five strings")
def _(a):
    return f"exact_match {lm_eval(a, 'gopher_until')['exact_match,none']:.2f}"


@check("lm-eval", "local-completions: loglikelihood by echo and logprobs")
def _(a):
    acc = lm_eval(a, "gopher_choice")["acc,none"]
    assert acc >= 0.75, f"acc {acc}"
    return f"acc {acc:.2f}"


@check("lm-eval", "local-chat-completions: generate_until with five strings")
def _(a):
    lm_eval(a, "gopher_until", "--apply_chat_template", model="local-chat-completions", path="/v1/chat/completions")


# transformers, as the tokenizer that /tokenize must equal


@check("transformers", "/tokenize and /detokenize: the ids of AutoTokenizer, prompt and chat")
def _(a):
    from transformers import AutoTokenizer

    t = AutoTokenizer.from_pretrained(a.tokenizer)
    post = lambda path, body: httpx.post(a.url + path, json=body, timeout=60, trust_env=False).raise_for_status().json()
    for text in [GO, "", "héllo\u2003wörld 漢字 🙂\r\n\t<|endoftext|>x"]:
        r = post("/tokenize", {"model": a.model, "prompt": text})
        assert r["tokens"] == t(text)["input_ids"] and r["count"] == len(r["tokens"]), text
        assert post("/detokenize", {"model": a.model, "tokens": r["tokens"]})["prompt"] == t.decode(r["tokens"])
    chat = [{"role": "user", "content": GO}, {"role": "assistant", "content": "x"}]
    want = t.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert post("/tokenize", {"model": a.model, "messages": chat})["tokens"] == t(want, add_special_tokens=False)["input_ids"]


# promtool


@check("promtool", "check metrics, after requests")
def _(a):
    if not shutil.which("promtool"):
        raise AssertionError("there is no promtool: install prometheus")
    text = httpx.get(a.url + "/metrics", timeout=60, trust_env=False).raise_for_status().text
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=60)
    said = (done.stdout + done.stderr).strip().splitlines()
    # Names of vLLM's with a colon are what dashboards ask for.
    other = [line for line in said if "metric names should not contain ':'" not in line]
    assert not other, "; ".join(other[:3])
    assert done.returncode in (0, 3), f"exit status {done.returncode}"
    return f"{len(said)} remarks, all on vLLM's names with ':'" if said else None


def version(client):
    if client == "promtool":
        if not shutil.which("promtool"):
            return "?"
        done = subprocess.run(["promtool", "--version"], capture_output=True, text=True, timeout=60)
        return (done.stdout + done.stderr).split()[2].split("+")[0]
    return importlib.metadata.version({"lm-eval": "lm_eval"}.get(client, client))


def one_line(e):
    text = " ".join(f"{type(e).__name__}: {e}".split())
    return text if len(text) <= 240 else text[:240] + "…"


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--url", required=True)
    p.add_argument("--model", required=True)
    p.add_argument("--tokenizer", required=True, help="the model's folder")
    p.add_argument("--tasks", required=True)
    p.add_argument("--verbose", action="store_true")
    p.add_argument("clients", nargs="*")
    a = p.parse_args()
    unknown = [c for c in a.clients if not any(c in name for name, _, _ in CHECKS)]
    if unknown:
        p.error(f"no client {unknown[0]}")
    print("| client | version | what was tried | result |\n|---|---|---|---|", flush=True)
    failed = 0
    for client, what, f in CHECKS:
        if a.clients and not any(c in client for c in a.clients):
            continue
        try:
            result = "ok" + (f": {said}" if (said := f(a)) else "")
        except Exception as e:  # whatever a client raises is its result
            failed += 1
            result = "**failed**: " + one_line(e).replace("|", "\\|")
            if a.verbose:
                traceback.print_exc()
        print(f"| {client} | {version(client)} | {what} | {result} |", flush=True)
    sys.exit(1 if failed else 0)


main()
