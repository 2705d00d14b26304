# cython: boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The compiled twin of ``facezoo.metrics.detection.match_boxes_numpy``.

Fused multiply-adds are off, because an overlap that sits on the threshold must round the same way
here and in NumPy. Plain memoryviews are used, so no NumPy headers are needed to build this.
"""


def match_boxes(
    const double[:, ::1] boxes,
    const long long[::1] image_of_box,
    const double[:, ::1] faces,
    const long long[::1] starts,
    const long long[::1] original,
    double iou_threshold,
    long long[::1] matched,
):
    """Write to ``matched`` what ``match_boxes_numpy`` returns; see there for the arguments."""
    cdef Py_ssize_t box, face, low, high, middle, stop
    cdef long long image, best_face
    cdef double left, top, right, bottom, width, box_area, face_area
    cdef double overlap_width, overlap_height, overlap, iou, best_iou, reach
    with nogil:
        for box in range(boxes.shape[0]):
            matched[box] = -1
            image = image_of_box[box]
            if image < 0:
                continue
            left, top = boxes[box, 0], boxes[box, 1]
            right, bottom = boxes[box, 2], boxes[box, 3]
            width = right - left + 1
            box_area = width * (bottom - top + 1)

            reach = left - (width / iou_threshold - width) - 1
            low, high = starts[image], starts[image + 1]
            stop = high
            while low < high:
                middle = (low + high) // 2
                if faces[middle, 0] < reach:
                    low = middle + 1
                else:
                    high = middle

            best_iou, best_face = 0, -1
            reach = left + (width - iou_threshold * width) + 1
            for face in range(low, stop):
                if faces[face, 0] > reach:
                    break
                overlap_width = min(right, faces[face, 2]) - max(left, faces[face, 0]) + 1
                if overlap_width <= 0:
                    continue
                overlap_height = min(bottom, faces[face, 3]) - max(top, faces[face, 1]) + 1
                if overlap_height <= 0:
                    continue
                overlap = overlap_width * overlap_height
                face_area = (faces[face, 2] - faces[face, 0] + 1) * (
                    faces[face, 3] - faces[face, 1] + 1
                )
                iou = overlap / (box_area + face_area - overlap)
                if iou < iou_threshold or iou < best_iou:
                    continue
                if iou > best_iou or original[face] < best_face:
                    best_iou, best_face = iou, original[face]
            matched[box] = best_face
