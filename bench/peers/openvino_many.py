"""OpenVINO GenAI's continuous batching on a GGUF file, as JSON: output tokens per second by number of requests.

python bench/peers/openvino_many.py MODEL.gguf THREADS           needs: openvino-genai
"""

import json
import statistics
import sys
import time

import openvino_genai

TEXT = "Number {}. The history of science is the study of science and knowledge, natural and social. "
REQUESTS, NEW_TOKENS, REPEATS = (1, 4, 16, 32), 64, 3


def main() -> None:
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size, scheduler.max_num_seqs, scheduler.enable_prefix_caching = 2, 32, False
    pipe = openvino_genai.ContinuousBatchingPipeline(
        sys.argv[1], scheduler, "CPU", {"INFERENCE_NUM_THREADS": int(sys.argv[2])}
    )
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens, config.ignore_eos, config.apply_chat_template = NEW_TOKENS, True, False

    def rate(count: int) -> float:
        prompts = [TEXT.format(i) * 4 for i in range(count)]
        start = time.perf_counter()
        pipe.generate(prompts, [config] * count)
        return count * NEW_TOKENS / (time.perf_counter() - start)

    rate(2)  # warms up
    print(json.dumps({count: statistics.median(rate(count) for _ in range(REPEATS)) for count in REQUESTS}))


if __name__ == "__main__":
    main()
