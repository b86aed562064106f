"""How well a trained model predicts, and what a prediction costs."""

from fervit_lib.evaluation.baselines import evaluate_baselines
from fervit_lib.evaluation.calibration import reliability
from fervit_lib.evaluation.compare import runs_to_compare
from fervit_lib.evaluation.cross import cross_evaluate, find_test_sets
from fervit_lib.evaluation.efficiency import measure_run
from fervit_lib.evaluation.evaluate import Faces, evaluate_run, first_of_each_recipe
from fervit_lib.evaluation.export import export_run
from fervit_lib.evaluation.folds import check_folds
from fervit_lib.evaluation.metrics import (
    class_metrics,
    class_roc_auc,
    majority_accuracy,
    misclassified_faces,
    top_confusions,
)
from fervit_lib.evaluation.predict import (
    Predictions,
    codes_of,
    find_decoder,
    find_encoder,
    load_predictor,
    load_predictors,
    predict_probs,
)
from fervit_lib.evaluation.reconstruction import (
    read_reconstructions,
    reconstructions_by_class,
    summarise_reconstructions,
)
from fervit_lib.evaluation.robustness import (
    CORRUPTIONS,
    accuracy_on_subset,
    corrupt,
    evaluate_corruptions,
    evaluate_tta,
    fer_plus_agreement,
    seen_in_training,
)
from fervit_lib.evaluation.segmenter import (
    export_segmenter,
    measure_segmenters,
    segmenter_difference,
)
from fervit_lib.evaluation.significance import (
    bootstrap_interval,
    compare_pairs,
    learning_curves,
    mean_over_seeds,
)
from fervit_lib.evaluation.tables import write_results
