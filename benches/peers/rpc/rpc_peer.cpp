// llama.cpp's RPC split, measured as `span measure` measures HEPH's: half of the layers here, half at a server.
//
//     rpc-peer serve HOST:PORT                        one thread, until it is killed
//     rpc-peer measure MODEL HOST:PORT PROMPT GEN REPACK
//
// The half with the head is the server's; with "-" for it all layers are here. REPACK is 0 or 1: whether weights here are
// repacked for this CPU at load, which llama.cpp does unless it is told not to.
//
// Prints one line of JSON: the seconds of a prompt of PROMPT tokens and of GEN greedy tokens behind one token.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "ggml-backend.h"
#include "ggml-rpc.h"
#include "llama.h"

using Clock = std::chrono::steady_clock;

static double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

static void fail(const char * why) {
    std::fprintf(stderr, "rpc-peer: %s\n", why);
    std::exit(1);
}

static void errors_only(ggml_log_level level, const char * text, void *) {
    if (level == GGML_LOG_LEVEL_ERROR) {
        std::fputs(text, stderr);
    }
}

static int serve(const char * endpoint) {
    std::setvbuf(stdout, nullptr, _IONBF, 0);  // Who began it waits for its first words.
    ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    ggml_backend_rpc_start_server(endpoint, nullptr, 1, 1, &cpu);
    return 0;
}

struct Peer {
    llama_model * model;
    llama_context * context;
    int vocabulary;

    void forget() { llama_memory_seq_rm(llama_get_memory(context), -1, -1, -1); }

    void feed(std::vector<llama_token> tokens) {
        if (llama_decode(context, llama_batch_get_one(tokens.data(), (int32_t) tokens.size()))) {
            fail("llama_decode failed");
        }
        llama_synchronize(context);
    }

    llama_token likeliest() const {
        const float * logits = llama_get_logits_ith(context, -1);
        return (llama_token) (std::max_element(logits, logits + vocabulary) - logits);
    }

    double prefill(int count) {
        forget();
        std::vector<llama_token> tokens(count);
        for (int i = 0; i < count; i++) {
            tokens[i] = 1 + (i * 7919) % (vocabulary - 1);
        }
        auto start = Clock::now();
        feed(tokens);
        likeliest();
        return seconds_since(start);
    }

    double decode(int count) {
        forget();
        feed({1});
        llama_token token = likeliest();
        auto start = Clock::now();
        for (int i = 0; i < count; i++) {
            feed({token});
            token = likeliest();
        }
        return seconds_since(start);
    }
};

static int measure(const char * file, const char * endpoint, int prompt, int generated, bool repack) {
    ggml_backend_dev_t devices[2] = {nullptr, nullptr};
    llama_model_params params = llama_model_default_params();
    params.n_gpu_layers = 0;
    params.devices = devices;
    params.use_extra_bufts = repack;
    if (std::strcmp(endpoint, "-") != 0) {
        ggml_backend_reg_t server = ggml_backend_rpc_add_server(endpoint);
        if (server == nullptr || ggml_backend_reg_dev_count(server) == 0) {
            fail("the server does not answer");
        }
        devices[0] = ggml_backend_reg_dev_get(server, 0);
        llama_model_params glance = llama_model_default_params();
        glance.vocab_only = true;
        llama_model * model = llama_model_load_from_file(file, glance);
        if (model == nullptr) {
            fail("the model cannot be read");
        }
        char name[64] = "", layers[16] = "";
        llama_model_meta_val_str(model, "general.architecture", name, sizeof name - sizeof ".block_count");
        llama_model_meta_val_str(model, std::strcat(name, ".block_count"), layers, sizeof layers);
        // llama.cpp counts the head as one more layer.
        params.n_gpu_layers = std::atoi(layers) / 2 + 1;
        llama_model_free(model);
    }
    Peer peer{};
    peer.model = llama_model_load_from_file(file, params);
    if (peer.model == nullptr) {
        fail("the model cannot be loaded");
    }
    llama_context_params setup = llama_context_default_params();
    setup.n_ctx = (uint32_t) std::max(1024, prompt + generated + 16);
    setup.n_batch = setup.n_ubatch = (uint32_t) std::max(512, prompt);
    setup.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    setup.n_threads = setup.n_threads_batch = 1;
    peer.context = llama_init_from_model(peer.model, setup);
    if (peer.context == nullptr) {
        fail("there is no room for a context");
    }
    peer.vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(peer.model));
    peer.prefill(prompt);
    peer.decode(2);
    double decode = peer.decode(generated);
    double prefill = peer.prefill(prompt);
    std::printf("{\"layers_there\": %d, \"repack\": %d, \"prompt\": %d, \"prefill_s\": %.6f, \"tokens\": %d, \"decode_s\": %.6f}\n",
                params.n_gpu_layers ? params.n_gpu_layers - 1 : 0, (int) repack, prompt, prefill, generated, decode);
    llama_free(peer.context);
    llama_model_free(peer.model);
    return 0;
}

int main(int count, char ** words) {
    llama_log_set(errors_only, nullptr);
    llama_backend_init();
    if (count == 3 && std::strcmp(words[1], "serve") == 0) {
        return serve(words[2]);
    }
    if (count == 7 && std::strcmp(words[1], "measure") == 0) {
        return measure(words[2], words[3], std::atoi(words[4]), std::atoi(words[5]), std::atoi(words[6]) != 0);
    }
    fail("serve HOST:PORT | measure MODEL HOST:PORT|- PROMPT GEN REPACK");
}
