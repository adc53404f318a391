"""OpenVINO GenAI on a GGUF file, as JSON: tokens per second by the names of bench/inference.py.

python bench/peers/openvino_rates.py MODEL.gguf THREADS           needs: openvino-genai
"""

import json
import statistics
import sys

import numpy
import openvino
import openvino_genai

REPEATS = 5


def main() -> None:
    path, threads = sys.argv[1], int(sys.argv[2])
    pipe = openvino_genai.LLMPipeline(path, "CPU", INFERENCE_NUM_THREADS=threads)
    config = openvino_genai.GenerationConfig()
    config.ignore_eos, config.apply_chat_template, config.max_new_tokens = True, False, 64
    random = numpy.random.default_rng(0)

    def metrics(count: int) -> openvino_genai.PerfMetrics:
        """Other tokens each time, so that no prefix is known from the time before."""
        ids = openvino.Tensor(random.integers(1000, 40_000, (1, count), dtype=numpy.int64))
        mask = openvino.Tensor(numpy.ones((1, count), dtype=numpy.int64))
        return pipe.generate(openvino_genai.TokenizedInputs(ids, mask), config).perf_metrics

    metrics(64)
    rates = {}
    for count in (512, 100):
        rates[f"prompt of {count}"] = statistics.median(
            1000 * count / metrics(count).get_ttft().mean for _ in range(REPEATS)
        )
    for context in (16, 448):
        rates[f"64 tokens behind {context}"] = statistics.median(
            1000 / metrics(context).get_tpot().mean for _ in range(REPEATS)
        )
    print(json.dumps(rates))


if __name__ == "__main__":
    main()
