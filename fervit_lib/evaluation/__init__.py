"""What a trained model does on faces it never saw."""

from fervit_lib.evaluation.calibration import (
    at_temperature,
    calibration_metrics,
    fit_temperature,
    reliability,
)
from fervit_lib.evaluation.compare import (
    Comparison,
    Evaluated,
    Faces,
    evaluate_run,
    from_predictions,
    learning_curves,
    one_of_each_recipe,
    recipe,
    runs_to_compare,
)
from fervit_lib.evaluation.efficiency import (
    count_macs,
    measure_model,
    measure_onnx,
    measure_run,
    measure_training,
    measure_whole_way,
)
from fervit_lib.evaluation.export import (
    FromImages,
    as_onnx_input,
    export_onnx,
    export_run,
    onnx_difference,
    pictures_for_onnx,
)
from fervit_lib.evaluation.metrics import (
    class_metrics,
    class_roc_auc,
    majority_accuracy,
    mistaken_faces,
    summary_metrics,
    top_confusions,
)
from fervit_lib.evaluation.predict import (
    Predictions,
    Predictor,
    load_predictor,
    load_predictors,
    predict_probs,
    read_predictions,
    write_predictions,
)
from fervit_lib.evaluation.robustness import (
    CORRUPTIONS,
    corrupt,
    fer_plus_agreement,
    on_part,
    seen_before,
    under_corruption,
    with_augmentation,
)
from fervit_lib.evaluation.segmenter import (
    export_segmenter,
    measure_segmenters,
    segmenter_difference,
)
from fervit_lib.evaluation.significance import (
    bootstrap_interval,
    compare_pairs,
    holm,
    mcnemar,
    over_seeds,
    score_intervals,
)
from fervit_lib.evaluation.tables import parameter_efficiency, write_comparison, write_results
