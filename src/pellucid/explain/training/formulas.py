"""The formula of each picture of the training story, in LaTeX."""

from __future__ import annotations

from pellucid.explain.training.run_folder import MEMORY

FORMULAS = {
    "loss": r"L = -\frac{1}{n} \sum_t \log p(x_{t+1} | x_{\le t})",
    "smooth": r"m_t = m_{t-1} + \alpha_t (L_t - m_{t-1}) , \quad \alpha_t = \max \left( \frac{1}{"
    + str(MEMORY)
    + r"}, \frac{5}{t + 4} \right)",
    "lr": r"w \to w - \eta_t \cdot u_t",
    "grad_norm": r"‖g‖ = \sqrt{\sum_i \left( \frac{∂ L}{∂ w_i} \right)^2}",
    "speed": r"\frac{B \cdot T}{\Delta t}",
    "ratio": r"r = \frac{‖ \Delta w ‖}{‖ w ‖} = \sqrt{\frac{\sum_i (\Delta w_i)^2}{\sum_i w_i^2}} \approx 10^{-3}",
    "size": r"‖ w ‖ = \sqrt{\sum_i w_i^2}",
    "margin": r"\beta \left( \log \frac{p(y_w | x)}{p_{\text{ref}}(y_w | x)} "
    r"- \log \frac{p(y_l | x)}{p_{\text{ref}}(y_l | x)} \right)",
    "accuracy": r"\frac{1}{n} \sum_i [\text{margin}_i > 0]",
    "stream": r"\text{RMS}(x) = \sqrt{\frac{1}{T D} \sum_{t, i} x_{t i}^2}",
    "token_loss": r"\ell_t = -\log p(x_{t+1} | x_{\le t}) , \quad L = \frac{1}{n} \sum_t \ell_t",
    "attention": r"A = \operatorname{softmax} \left( \frac{q k^\top}{\sqrt{d}} \right)",
    "distance": r"a_d = \frac{1}{T - d} \sum_{i \ge d} A_{i, i-d}",
    "embedding": r"y_i = (e_i - \mu) \, U , \quad U = \text{PCA}_2",
    "positions": r"\cos(p_i, p_j) = \frac{p_i \cdot p_j}{‖ p_i ‖ ‖ p_j ‖}",
    "next": r"p(x_{t+1} | x_{\le t}) = \operatorname{softmax}(\text{logits}_t)",
}
