/*
 * hog: wants all the CPU time there is, until it is killed.
 *
 * Build: gcc -O2 -o hog hog.c
 */
int main(void)
{
	for (volatile unsigned long turns = 0;; turns = turns + 1)
		;
}
