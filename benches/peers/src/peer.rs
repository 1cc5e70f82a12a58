//! A llama.cpp model and its one running sequence, behind safe calls.

use std::ffi::CString;
use std::ptr;

use llama_cpp_sys_2 as llama;

/// llama.cpp's own default for the tokens of one pass.
pub const CHUNK: usize = 512;

/// How llama.cpp is set up; the runner tries each and keeps the better.
#[derive(Clone, Copy)]
pub struct Setup {
    /// Threads of every pass.
    pub threads: usize,
    /// Positions the KV cache holds.
    pub context: usize,
    /// Whether weights are repacked for this CPU at load.
    pub repack: bool,
    /// Whether attention runs as its fused form.
    pub flash: bool,
}

/// A loaded model with its context.
pub struct Peer {
    model: *mut llama::llama_model,
    context: *mut llama::llama_context,
    vocabulary: usize,
}

impl Peer {
    /// Loads the GGUF file `path`.
    ///
    /// # Errors
    /// The file cannot be loaded, or the context cannot be made.
    pub fn load(path: &str, setup: Setup) -> Result<Self, String> {
        let name = CString::new(path).map_err(|_| "the path holds a zero byte".to_owned())?;
        // SAFETY: plain calls of llama.h in the order its examples use; every pointer is checked before use.
        unsafe {
            llama::llama_log_set(Some(errors_only), ptr::null_mut());
            llama::llama_backend_init();
            let mut params = llama::llama_model_default_params();
            params.n_gpu_layers = 0;
            params.use_extra_bufts = setup.repack;
            let model = llama::llama_model_load_from_file(name.as_ptr(), params);
            if model.is_null() {
                return Err(format!("llama.cpp cannot load {path}"));
            }
            let context = llama::llama_init_from_model(model, context_params(setup));
            if context.is_null() {
                return Err("llama.cpp cannot make a context".to_owned());
            }
            let vocabulary = llama::llama_vocab_n_tokens(llama::llama_model_get_vocab(model)) as usize;
            Ok(Self {
                model,
                context,
                vocabulary,
            })
        }
    }

    /// Tokens of the vocabulary.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Forgets every position from `length` on.
    pub fn roll_back(&mut self, length: usize) {
        // SAFETY: the context lives as long as `self`; sequence 0 always exists.
        unsafe {
            llama::llama_memory_seq_rm(llama::llama_get_memory(self.context), 0, length as i32, -1);
        }
    }

    /// Runs `tokens` from `position` on; `logits` says of which tokens logits are wanted.
    ///
    /// # Errors
    /// llama.cpp refuses the batch.
    pub fn feed(&mut self, tokens: &[i32], position: usize, logits: Logits) -> Result<(), String> {
        // SAFETY: the batch has room for `tokens.len()` entries with one sequence id each, and is freed below.
        let code = unsafe {
            let mut batch = llama::llama_batch_init(tokens.len() as i32, 0, 1);
            batch.n_tokens = tokens.len() as i32;
            for (i, token) in tokens.iter().enumerate() {
                let wanted = logits == Logits::All || i + 1 == tokens.len();
                *batch.token.add(i) = *token;
                *batch.pos.add(i) = (position + i) as i32;
                *batch.n_seq_id.add(i) = 1;
                *(*batch.seq_id.add(i)) = 0;
                *batch.logits.add(i) = i8::from(wanted);
            }
            let code = llama::llama_decode(self.context, batch);
            llama::llama_synchronize(self.context);
            llama::llama_batch_free(batch);
            code
        };
        if code == 0 {
            Ok(())
        } else {
            Err(format!("llama_decode answered {code}"))
        }
    }

    /// The likeliest token after the last one fed.
    pub fn likeliest(&mut self) -> i32 {
        // SAFETY: the last token of every batch has logits, one float per token of the vocabulary.
        let logits = unsafe {
            std::slice::from_raw_parts(llama::llama_get_logits_ith(self.context, -1), self.vocabulary)
        };
        let best = (0..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best });
        best as i32
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // SAFETY: both pointers came from llama.cpp and are freed once, the context before its model.
        unsafe {
            llama::llama_free(self.context);
            llama::llama_model_free(self.model);
        }
    }
}

/// Which tokens of a batch get logits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Logits {
    /// The last only, as in prefill and decode.
    Last,
    /// Every one, as when drafted tokens are verified.
    All,
}

/// Writes the GGUF file `from` as `to` in the weight format `kind`.
///
/// # Errors
/// The format is not known here, or llama.cpp fails.
pub fn quantize(from: &str, to: &str, kind: &str, threads: usize) -> Result<(), String> {
    let kind = match kind.to_lowercase().as_str() {
        "q4_k_m" => llama::LLAMA_FTYPE_MOSTLY_Q4_K_M,
        "q8_0" => llama::LLAMA_FTYPE_MOSTLY_Q8_0,
        other => return Err(format!("no weight format is called {other} here")),
    };
    let path = |text: &str| CString::new(text).map_err(|_| "the path holds a zero byte".to_owned());
    let (from, to) = (path(from)?, path(to)?);
    // SAFETY: plain calls of llama.h; both strings outlive the call.
    let code = unsafe {
        llama::llama_log_set(Some(errors_only), ptr::null_mut());
        llama::llama_backend_init();
        let mut params = llama::llama_model_quantize_default_params();
        params.ftype = kind;
        params.nthread = threads as i32;
        llama::llama_model_quantize(from.as_ptr(), to.as_ptr(), &params)
    };
    if code == 0 {
        Ok(())
    } else {
        Err(format!("llama_model_quantize answered {code}"))
    }
}

fn context_params(setup: Setup) -> llama::llama_context_params {
    // SAFETY: returns a plain struct by value.
    let mut params = unsafe { llama::llama_context_default_params() };
    params.n_ctx = setup.context as u32;
    params.n_batch = CHUNK as u32;
    params.n_ubatch = CHUNK as u32;
    params.n_threads = setup.threads as i32;
    params.n_threads_batch = setup.threads as i32;
    params.flash_attn_type = if setup.flash {
        llama::LLAMA_FLASH_ATTN_TYPE_ENABLED
    } else {
        llama::LLAMA_FLASH_ATTN_TYPE_DISABLED
    };
    params
}

/// llama.cpp reports each tensor it loads; only its errors are passed on.
unsafe extern "C" fn errors_only(
    level: llama::ggml_log_level,
    text: *const std::ffi::c_char,
    _: *mut std::ffi::c_void,
) {
    if level == llama::GGML_LOG_LEVEL_ERROR {
        // SAFETY: llama.cpp passes a zero-terminated string.
        eprint!("{}", unsafe { std::ffi::CStr::from_ptr(text) }.to_string_lossy());
    }
}
