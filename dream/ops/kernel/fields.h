// The fields of struct Scan, FIELD(type, name) each: its declaration and the schema that Python reads are both made of them.
// The names are those that Python sets them by; knobs have the names of DREAMConfig, parameters those of DREAMParams.
//
// Shapes: N samples, T steps, I inputs, H hidden, R rank; K = every, S = ceil(T / K) segments. Arrays are contiguous; time comes
// first, (T, N, ...).
FIELD(int64_t, samples)
FIELD(int64_t, steps)
FIELD(int64_t, inputs)
FIELD(int64_t, hidden)
FIELD(int64_t, rank)
FIELD(int64_t, every)
FIELD(int64_t, threads)
FIELD(int64_t, plastic)    // there are fast weights: line 1 reads U
FIELD(int64_t, learns)     // lines 6, 7 and 11
FIELD(int64_t, liquid)     // line 9
FIELD(int64_t, forecasts)  // line 1 once more, after the last step
FIELD(int64_t, missing)    // NaN in x was not observed
FIELD(int64_t, raw)        // eta, tau and the surprise scale come as logarithms, tonic as a logit
// strides
FIELD(int64_t, x_sample)
FIELD(int64_t, x_step)
FIELD(int64_t, span_sample)
FIELD(int64_t, span_step)

FIELD(double, entropy_influence)
FIELD(double, surprise_temperature)
FIELD(double, error_smoothing)
FIELD(double, surprise_smoothing)
FIELD(double, base_threshold)
FIELD(double, kappa)
FIELD(double, target_norm)
FIELD(double, sleep_rate)
FIELD(double, min_surprise_for_sleep)
FIELD(double, forgetting_rate)
FIELD(double, time_step)

// parameters, row-major
FIELD(const T*, C)
FIELD(const T*, c)
FIELD(const T*, W)
FIELD(const T*, B)
FIELD(const T*, b)
FIELD(const T*, A)
FIELD(const T*, G_x)
FIELD(const T*, G_h)
FIELD(const T*, V)
FIELD(const T*, eta)
FIELD(const T*, tonic)
FIELD(const T*, tau)
FIELD(const T*, surprise_scale)  // s; null: 0
FIELD(const T*, error_var_prior)  // var_0
FIELD(const T*, K)  // (G, m, m)
FIELD(const T*, k)
FIELD(const T*, D)

FIELD(const T*, x)              // (N, T, I) by its strides, the last axis contiguous
FIELD(const T*, timespans)      // (N, T) by its strides; null: 1
FIELD(const int64_t*, lengths)  // (N); null: T

// state before
FIELD(const T*, h)
FIELD(const T*, U)
FIELD(const T*, U_target)
FIELD(const T*, adaptive_tau)
FIELD(const T*, error_mean)
FIELD(const T*, error_var)
FIELD(const T*, avg_surprise)

// (T, N, ...)
FIELD(T*, output)
FIELD(T*, error)
FIELD(T*, surprise)
FIELD(T*, deviation)
FIELD(T*, u_norm)
FIELD(T*, prediction)  // (T + 1, N, I), of each step's input before it and, where it forecasts, of the next after the last

// state after
FIELD(T*, h_)
FIELD(T*, U_)
FIELD(T*, U_target_)
FIELD(T*, adaptive_tau_)
FIELD(T*, error_mean_)
FIELD(T*, error_var_)
FIELD(T*, avg_surprise_)

// kept for the backward pass; null: not wanted
FIELD(T*, gates)          // (T, N, 2H) tanh(u), and a of line 9
FIELD(T*, cue)            // (T, N, H) tanh(v)
FIELD(T*, read)           // (T + 1, N, R) key(h) U
FIELD(T*, recalled)       // (T, N, R) o
FIELD(T*, filtered)       // (T, N, R) e V
FIELD(T*, x_read)         // (T, N, I) x with predictions where it was not observed; null: x
FIELD(T*, norm)           // (T, N) |U"|
FIELD(T*, asleep)         // (T, N) zeta avg_surprise' where line 11 acts
FIELD(T*, U_kept)         // (S, N, R, H) before the first step of each segment
FIELD(T*, U_target_kept)  // likewise

// backward: gradients of what came out, then of what went in; any may be null
FIELD(const T*, d_output)
FIELD(const T*, d_prediction)
FIELD(const T*, d_error)
FIELD(const T*, d_h)
FIELD(const T*, d_U)
FIELD(T*, d_x)          // (N, T, I)
FIELD(T*, d_timespans)  // (N, T)
FIELD(T*, d_C)
FIELD(T*, d_c)
FIELD(T*, d_W)
FIELD(T*, d_B)
FIELD(T*, d_b)
FIELD(T*, d_A)
FIELD(T*, d_G_x)
FIELD(T*, d_G_h)
FIELD(T*, d_V)
FIELD(T*, d_eta)
FIELD(T*, d_tonic)
FIELD(T*, d_tau)
FIELD(T*, d_surprise_scale)
FIELD(T*, d_K)
FIELD(T*, d_k)
FIELD(T*, d_D)
FIELD(T*, d_h0)
FIELD(T*, d_U0)
